# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootloader programs: how one is run, what it is given, and what becomes of what it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from support.commands import domward
from support.programs import DELIVERS, deliver, delivered, refused, reporting, script

from domward.protocol import limits
from domward.protocol.errors import OperationCancelled, OperationTimedOut, ProgramError, UsageError
from domward.supervisor import BootRequest, Budgets, Config, Supervisor
from domward.supervisor.console import Console

SMALL = Config(budgets=Budgets(kernel_bytes=limits.MIB, ramdisk_bytes=limits.MIB))
IMPATIENT = Config(budgets=Budgets(wall_seconds=1.0))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image that only root may read: 64 KiB, every 4096 bytes another one."""
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([number]) * 4096 for number in range(1, 17)))
    path.chmod(0o600)
    return path


def test_a_shell_script_as_a_bootloader(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)

    async def main() -> None:
        async with Supervisor() as supervisor:
            result = await supervisor.run_bootloader(BootRequest(disk=disk, bootloader=program))
            try:
                assert os.pread(result.kernel.fd.fileno(), 8192, 0) == b"\x01" * 4096
                assert result.ramdisk is not None
                assert os.pread(result.ramdisk.fd.fileno(), 8192, 0) == b"\x02" * 4096
                assert (result.args, result.title) == (b"from a script", b"")
                assert result.source == f"program:{program}"
                assert len(result.helpers) == 2  # the relay and the program
            finally:
                result.close()

    asyncio.run(main())


def test_a_bootloader_sees_its_disk_whatever_the_umask_of_the_caller(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)
    before = os.umask(0o077)
    try:
        assert delivered(disk, program).args == b"from a script"
    finally:
        os.umask(before)


def test_the_command(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", f"echo here; {DELIVERS}")
    arguments = ("--bootloader", program, "--output-dir", tmp_path / "out", "--log-dir", tmp_path / "logs", "--json")
    ran = domward("run", disk, *arguments)
    assert (ran.code, ran.err) == (0, "")
    found = ran.json()
    assert (found["args"], found["source"]) == ("from a script", f"program:{program}")
    assert (tmp_path / "out" / "kernel").read_bytes() == b"\x01" * 4096
    assert Path(found["log"]).read_bytes() == b"here\r\n"


def test_a_program_is_told_of_its_terminals_size(disk: Path, tmp_path: Path) -> None:
    program = reporting(
        tmp_path / "boot",
        """
told, teller = os.pipe()
os.set_blocking(teller, False)
signal.set_wakeup_fd(teller)
signal.signal(signal.SIGWINCH, lambda *_: None)
print(os.get_terminal_size(), flush=True)
os.read(told, 1)
found = [*os.get_terminal_size()]
""",
    )

    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            console = Console(far.fileno(), far.fileno(), 132, 43)
            async with Supervisor() as supervisor:
                running = asyncio.ensure_future(deliver(supervisor, disk, program, console=console))
                shown = b""
                while b"columns=132, lines=43" not in shown:
                    shown += await asyncio.to_thread(near.recv, 4096)
                await asyncio.to_thread(console.resize, 100, 30)  # from another thread, as a program with several may
                assert (await running).report() == [100, 30]
            console.resize(80, 24)  # nobody uses it any more

    asyncio.run(main())


def test_a_static_binary(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "boot.c").write_text(
        "#include <stdio.h>\n#include <string.h>\n"
        "int main(int argc, char **argv) {\n"
        "  char kernel[4096]; FILE *out = NULL;\n"
        "  for (int i = 1; i < argc; i++) {\n"
        '    if (!strncmp(argv[i], "--output=", 9)) out = fopen(argv[i] + 9, "w");\n'
        '    if (!strncmp(argv[i], "--output-directory=", 19)) sprintf(kernel, "%s/k", argv[i] + 19);\n'
        "  }\n"
        '  FILE *file = fopen(kernel, "w"); fputs("static", file); fclose(file);\n'
        '  fprintf(out, "kernel %s%c%c", kernel, 0, 0); return fclose(out);\n'
        "}\n"
    )
    subprocess.run(["gcc", "-static", "-o", tmp_path / "boot", tmp_path / "boot.c"], check=True)
    assert delivered(disk, tmp_path / "boot").kernel == b"static"


def test_what_a_program_is_given(disk: Path, tmp_path: Path) -> None:
    program = reporting(
        tmp_path / "boot",
        "found = {'argv': sys.argv[1:], 'environment': dict(os.environ), 'folder': os.getcwd(),\n"
        " 'fds': [n for n in range(64) if error(fcntl.fcntl, n, fcntl.F_GETFD) != 'EBADF'],\n"
        " 'terminals': [os.isatty(n) for n in (0, 1, 2)], 'leader': os.getsid(0) == os.getpid(),\n"
        " 'foreground': os.tcgetpgrp(0) == os.getpid(), 'size': os.get_terminal_size(1),\n"
        " 'echo': bool(termios.tcgetattr(0)[3] & termios.ECHO), 'tty': os.close(os.open('/dev/tty', os.O_RDWR)),\n"
        " 'caught': [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]}",
    )
    found = delivered(
        disk,
        program,
        bootloader_args=(b"--own=1", b"word"),
        entry=b"2",
        args=b"ro quiet",
        kernel=b"/vmlinuz",
        ramdisk=b"/initrd",
        offset=1_048_576,
    ).report()
    assert found["argv"] == [
        "--kernel=/vmlinuz",
        "--ramdisk=/initrd",
        "--args=ro quiet",
        "--entry=2",
        "--offset=1048576",
        "--output=/tmp/output",
        "--output-format=simple0",
        "--output-directory=/tmp/results",
        "--own=1",
        "word",
        "/disk/image",
    ]
    assert found["environment"] == {
        "HOME": "/tmp",
        "LC_ALL": "C",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": "vt100",
        "TMPDIR": "/tmp",
    }
    assert found["folder"] == "/tmp"
    assert found["fds"] == [0, 1, 2]
    assert found["terminals"] == [True] * 3
    assert found["leader"]
    assert found["foreground"]
    assert found["size"] == [80, 24]
    assert found["echo"]
    assert set(found["caught"]) <= {13, 25}  # Python's own: SIGPIPE and SIGXFSZ


def test_what_a_program_gets_and_shows_is_in_the_audit_log(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", f"echo here; {DELIVERS}")
    delivered(disk, program, Config(audit_log=tmp_path / "audit.log"))
    records = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    passed = {
        record["detail"]["order"]: record["detail"]["fds"] for record in records if record["event"] == "fds-passed"
    }
    attached = {fd["name"]: fd for fd in passed["attach"]}
    assert attached["disk"]["inode"] == disk.stat().st_ino
    assert attached["disk"]["access"] == "read-only"
    assert attached["bootloader"]["inode"] == program.stat().st_ino
    assert [fd["kind"] for fd in passed["run-program"]] == ["memory", "memory", "character-device"]
    (shown,) = [record["detail"] for record in records if record["event"] == "bootloader-output"]
    assert shown["bytes"] == len(b"here\r\n")


# --- programs that fail -----------------------------------------------------------------------------------------


def test_a_program_that_fails_is_an_error_with_its_status_and_its_last_words(disk: Path, tmp_path: Path) -> None:
    error = refused(disk, script(tmp_path / "boot", "echo first; echo out of sorts >&2; exit 3"))
    assert isinstance(error, ProgramError)
    assert (error.code, error.status, error.exit_code) == ("program-failed", 3, 6)
    assert error.sentence == (
        f"The bootloader {tmp_path}/boot failed. It ended with exit status 3. Last it showed: first / out of sorts"
    )


FAILURES = {
    "non-zero after writing": (f"{DELIVERS} exit 7", "program-failed", 7, "exit status 7"),
    "killed by a signal": ("kill -USR1 $$", "program-failed", -10, "ended by SIGUSR1"),
    "no output": ("exit 0", "program-output-missing", 0, "left no output"),
    "output of two megabytes": ('head -c 2000000 /dev/zero > "$output"', "program-output-invalid", 0, "longer than"),
    "no terminator": ('printf "kernel $dir/k" > "$output"', "program-output-invalid", 0, "two NUL bytes"),
    "an unknown item": ('printf "boot me\\0\\0" > "$output"', "program-output-invalid", 0, "unknown item: boot me"),
    "a path elsewhere": ('printf "kernel /etc/passwd\\0\\0" > "$output"', "program-output-invalid", 0, "not in the"),
    "the output is a link": ('rm "$output"; ln -s /dev/zero "$output"', "program-output-invalid", 0, "symbolic link"),
    "the output is a FIFO": ('rm "$output"; mkfifo "$output"', "program-output-invalid", 0, "no regular file"),
    "the output is gone": ('rm "$output"', "program-output-invalid", 0, "No such file"),
    "a kernel that is a link": (
        'ln -s "$disk" "$dir/k"; printf "kernel $dir/k\\0\\0" > "$output"', "program-result-invalid", 0, "symbolic link"
    ),
    "a kernel that is a FIFO": (
        'mkfifo "$dir/k"; printf "kernel $dir/k\\0\\0" > "$output"', "program-result-invalid", 0, "no regular file"
    ),
    "a kernel that is a folder": (
        'mkdir "$dir/k"; printf "kernel $dir/k\\0\\0" > "$output"', "program-result-invalid", 0, "no regular file"
    ),
    "a kernel that is not there": ('printf "kernel $dir/k\\0\\0" > "$output"', "program-result-invalid", 0, "No such"),
    "an empty kernel": (
        ': > "$dir/k"; printf "kernel $dir/k\\0\\0" > "$output"', "program-result-invalid", 0, "kernel is empty"
    ),
    "a kernel that is too large": (
        'head -c 1500000 /dev/zero > "$dir/k"; printf "kernel $dir/k\\0\\0" > "$output"',
        "program-result-invalid", 0, "has 1500000 bytes; 1048576 are allowed",
    ),
    "a ramdisk that is too large": (
        'echo > "$dir/k"; head -c 1500000 /dev/zero > "$dir/r";'
        'printf "kernel $dir/k\\0ramdisk $dir/r\\0\\0" > "$output"',
        "program-result-invalid", 0, "ramdisk has 1500000 bytes",
    ),
    "more than may be written": ('head -c 3000000 /dev/zero > "$dir/k"', "program-failed", 153, "File size limit"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_each_way_to_fail_has_its_code(name: str, disk: Path, tmp_path: Path) -> None:
    text, code, status, said = FAILURES[name]
    error = refused(disk, script(tmp_path / "boot", text), SMALL)
    assert isinstance(error, ProgramError)
    assert (error.code, error.status) == (code, status), error
    assert said in error.sentence
    assert error.operation


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"#!/opt/no/such/interpreter\n", 0o755, "interpreter is not there"),
        (b"\x7fELF but no more\n", 0o755, "neither a binary of this machine nor a script"),
        (b"#!/bin/sh\n", 0o711, "exit status"),  # it may be executed; who reads it is its interpreter
    ],
)
def test_a_program_that_cannot_be_started(content: bytes, mode: int, said: str, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "boot").write_bytes(content)
    (tmp_path / "boot").chmod(mode)
    assert said in refused(disk, tmp_path / "boot").sentence


def test_a_program_of_roots_alone_is_run_all_the_same(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)
    program.chmod(0o700)
    assert delivered(disk, program).args == b"from a script"


@pytest.mark.parametrize("what", ["missing", "folder", "plain"])
def test_what_is_no_program_is_refused_before_anything_is_done(what: str, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    assert isinstance(refused(disk, tmp_path / what), UsageError)
    ran = domward("run", disk, "--bootloader", tmp_path / what)
    assert str(tmp_path / what) in ran.error("usage")


@pytest.mark.parametrize(
    "words",
    [
        ("--bootloader", "lilo"),
        ("--bootloader", ""),
        ("--bootloader-arg", "x"),
        ("--bootloader", "pygrub", "--format", "qcow2"),
        ("--bootloader", "pygrub", *(("--bootloader-arg", "x") * 33)),
        ("--bootloader", "pygrub", "--bootloader-arg", "x" * 1025),
        ("--bootloader", "pygrub", "--offset", "-1"),
        ("--bootloader", "pygrub", "--offset", "9" * 19),
    ],
)
def test_words_that_cannot_mean_anything(words: tuple[str, ...], disk: Path) -> None:
    domward("run", disk, *words).error("usage")


# --- programs that do not behave --------------------------------------------------------------------------------


def test_what_a_program_leaves_running_ends_with_it(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", f"setsid sleep 1000 </dev/null >/dev/null 2>&1 & {DELIVERS}")

    async def main() -> None:
        async with Supervisor() as supervisor:
            found = await deliver(supervisor, disk, program)
            assert found.args == b"from a script"

    before = sleepers()
    asyncio.run(main())
    assert sleepers() == before


def sleepers() -> list[str]:
    """The processes of this machine that `sleep 1000`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command == b"sleep\x001000\x00":
            found.append(pid)
    return found


def test_a_kernel_that_another_process_goes_on_writing_is_as_it_was_when_the_program_ended(
    disk: Path, tmp_path: Path
) -> None:
    writes = '(while :; do echo more >> "$dir/kernel"; done) &'
    seen_to = 'while [ "$(stat -c %s "$dir/kernel")" -le 4096 ]; do :; done'
    found = delivered(disk, script(tmp_path / "boot", f"{DELIVERS} {writes} {seen_to}"))
    assert found.kernel.startswith(b"\x01" * 4096 + b"more\n")


def test_a_program_that_forks_for_ever_finds_its_limit(disk: Path, tmp_path: Path) -> None:
    program = reporting(
        tmp_path / "boot",
        "found = 0\n"
        "try:\n"
        "    while found < 1000:\n"
        "        if os.fork() == 0:\n"
        "            signal.pause()\n"
        "        found += 1\n"
        "except BlockingIOError:\n"
        "    pass",
    )
    assert delivered(disk, program).report() == limits.PROGRAM_PROCESSES - 2  # the collector, the program


def test_orphans_are_reaped_while_the_program_runs(disk: Path, tmp_path: Path) -> None:
    found = delivered(disk, script(tmp_path / "boot", f"for n in $(seq 60); do (: &); done; wait; {DELIVERS}"))
    assert found.args == b"from a script"


def test_a_program_that_closes_its_terminal_early(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", f"echo before; exec </dev/null >/dev/null 2>&1; {DELIVERS}")
    found = delivered(disk, program)
    assert (found.args, found.log) == (b"from a script", b"before\r\n")


def test_a_program_that_writes_its_result_and_hangs(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", f"trap '' TERM HUP INT; {DELIVERS} while :; do sleep 1000; done")
    assert isinstance(refused(disk, program, IMPATIENT), OperationTimedOut)


def test_a_program_that_ignores_signals_ends_when_the_operation_is_cancelled(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", "trap '' TERM HUP INT; echo; while :; do sleep 1000; done")

    async def main() -> None:
        async with Supervisor() as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk, bootloader=program))
            running = asyncio.Event()
            operation.on_progress(lambda step: running.set() if step == "program" else None)
            operation.start()
            await running.wait()
            operation.cancel()
            with pytest.raises(OperationCancelled):
                await operation.wait()

    asyncio.run(main())


def test_endless_output_reaches_the_log_up_to_its_cap(disk: Path, tmp_path: Path) -> None:
    config = Config(budgets=Budgets(log_bytes=10_000))
    program = script(tmp_path / "boot", f"head -c 3000000 /dev/zero | tr '\\0' x; {DELIVERS}")
    found = delivered(disk, program, config)
    assert found.args == b"from a script"
    assert found.log.startswith(b"x" * 10_000)
    assert len(found.log) < 10_000 + limits.TEXT_BYTES


def test_programs_one_after_another_leave_nothing(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)

    async def main() -> None:
        async with Supervisor() as supervisor:
            await deliver(supervisor, disk, program)
            before = sorted(os.listdir("/proc/self/fd"))
            for _ in range(10):
                await deliver(supervisor, disk, program)
            assert sorted(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())
