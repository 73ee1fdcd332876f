# SPDX-License-Identifier: GPL-3.0-or-later
"""Each line of the policy of bootloader programs is used by a real one, or says why it is there all the same.

Traced are pygrub, with and without its menu; shell scripts, in dash and Bash, that do with Debian's tools what scripts
do with files, pipes, jobs and terminals; a static binary; and a Python program that goes through its library's calls.
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support import traced_calls
from support.programs import DELIVERS, deliver, reporting, script

from domward.protocol.messages import HelperKind
from domward.supervisor import BootRequest, Console, Supervisor
from domward.supervisor.programs import PYGRUB

SHELL = f"""
cd "$dir" && exec 3>&2
mkdir a && touch a/one && cp a/one a/two && cp -a a b && mv a/two a/three && ln -s one a/link && ln a/one a/hard
readlink -f a/link
test -r a/one && chmod 600 a/one && stat a/one && find a -name one -exec cat {{}} + && df . && du -s a
mkfifo pipe && (echo through >pipe & cat pipe; wait)
dd if="$disk" bs=512 count=8 2>/dev/null | od -A n -t x1 | head -n 2 | tr -d ' ' | sort | sed s/0/o/ | grep -c o
dd if="$disk" bs=4096 count=4 2>/dev/null | gzip -1 | gunzip | wc -c
tar cf t.tar a && tar tf t.tar && cmp a/one b/one
truncate -s 8192 sparse; fallocate -l 8192 full; fallocate -p -l 4096 full; cp --sparse=always full less
dd if=/dev/zero of=full bs=1k count=1 conv=notrunc,fsync 2>/dev/null
dd if=/dev/zero of=full bs=1k count=1 conv=fdatasync 2>/dev/null
flock full true; nice true; setpriv --pdeathsig TERM true; timeout 5 true; date +%s; uname -r; id -u; sleep 0.01
seq 3 | xargs echo; mktemp; sync full
stty -a >/dev/null; stty sane; ls -l a >/dev/null; trap 'echo caught' USR1; kill -s USR1 $$
ulimit -a >/dev/null; times >/dev/null
(sleep 60 & kill $!; wait); umask 022; awk 'BEGIN {{ print 1 }}'; blockdev --getsize64 "$disk" 2>/dev/null
blkid "$disk"; file -L "$disk" 2>/dev/null
rm -r a b pipe t.tar sparse full less; mkdir d && rmdir d
{DELIVERS}
"""
BASH = """
set -m; sleep 0.01 & fg >/dev/null; wait; read -t 0.01 -r word; mapfile -t lines < <(printf '1\\n2\\n') || :
exec {low}>&1; exec {low}>&-; [[ -t 0 ]] && shopt -s checkwinsize; printf '%(%s)T\\n'; kill -0 $$; coproc cat
kill $COPROC_PID; wait
"""
PYTHON = """
import contextlib, glob, mmap, resource, select, shutil, subprocess, tempfile, threading, pty
os.chdir(folder)
with tempfile.TemporaryDirectory(dir=folder) as work:
    path = os.path.join(work, "file")
    with open(path, "w+b") as file:
        file.write(bytes(8192))
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
        file.truncate(4096)
        os.pwrite(file.fileno(), b"x", 1)
        os.pwritev(file.fileno(), [b"y"], 2)
        os.preadv(file.fileno(), [bytearray(1)], 0)
        os.readv(file.fileno(), [bytearray(1)])
        os.writev(file.fileno(), [b"z"])
        os.posix_fallocate(file.fileno(), 0, 4096)
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fchmod(file.fileno(), 0o600)
        os.fstatvfs(file.fileno())
        with mmap.mmap(file.fileno(), 4096) as page:
            page[0] = 1
            page.flush()
        os.sendfile(os.open(path + "2", os.O_WRONLY | os.O_CREAT), file.fileno(), 0, 10)
        os.copy_file_range(file.fileno(), os.dup(file.fileno()), 10, 0, 5000)
        os.get_blocking(file.fileno())
        os.set_inheritable(file.fileno(), True)
    os.rename(path, path + "3")
    os.replace(path + "3", path)
    os.utime(path)
    os.truncate(path, 10)
    os.access(path, os.R_OK)
    error(os.chown, path, 0, 0)
    error(os.lchown, path, 0, 0)
    error(os.getxattr, path, "user.x")
    error(os.listxattr, path)
    error(os.setuid, 0)
    error(os.setgid, 0)
    error(os.setgroups, [])
    error(os.nice, 1)
    error(os.sched_setaffinity, 0, [0])
    error(socket.socket)
    error(socket.socketpair)
    os.sched_getaffinity(0)
    shutil.copytree(work, work + "-copy")
    shutil.rmtree(work + "-copy")
    os.listdir(work)
    glob.glob("*")
    os.statvfs(work)
with contextlib.suppress(ValueError): resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
resource.getrlimit(resource.RLIMIT_STACK)
resource.getrusage(resource.RUSAGE_SELF)
os.times()
os.sysconf("SC_PHYS_PAGES")
subprocess.run(["true"], check=True, close_fds=True, start_new_session=True)
os.posix_spawn("/bin/true", ["true"], {})
os.wait()
thread = threading.Thread(target=time.sleep, args=(0.01,))
thread.start()
thread.join()
with select.epoll() as epoll: epoll.poll(0)
select.select([], [], [], 0.001)
select.poll().poll(1)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
signal.alarm(0)
signal.getitimer(signal.ITIMER_REAL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
signal.sigpending()
signal.sigtimedwait([signal.SIGUSR1], 0.01)
termios.tcsetattr(0, termios.TCSADRAIN, termios.tcgetattr(0))
termios.tcsetattr(0, termios.TCSANOW, termios.tcgetattr(0))
termios.tcflush(0, termios.TCIFLUSH)
termios.tcdrain(1)
os.get_terminal_size()
os.tcgetpgrp(0)
os.getpgid(0)
os.getsid(0)
os.getresuid()
os.getresgid()
os.getgroups()
os.getppid()
os.getrandom(1)
os.getpriority(os.PRIO_PROCESS, 0)
os.sched_getscheduler(0)
os.sched_yield()
fcntl.ioctl(0, termios.FIONREAD, bytes(4))
fcntl.ioctl(1, termios.TIOCOUTQ, bytes(4))
os.dup2(1, 9, inheritable=False)
os.symlink("x", "link")
os.unlink("link")
open("plain", "w").close()
os.link("plain", "hard")
os.mkfifo("fifo")
child = os.spawnlp(os.P_NOWAIT, "true", "true")
os.waitid(os.P_PID, child, os.WEXITED)
signal.signal(signal.SIGUSR2, lambda *_: None)
signal.raise_signal(signal.SIGUSR2)
termios.tcsetattr(0, termios.TCSAFLUSH, termios.tcgetattr(0))
with open("plain", "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.fcntl(file, fcntl.F_GETLK, bytes(32))
ends = os.pipe()
os.set_blocking(ends[0], False)
with select.epoll() as epoll:
    epoll.register(ends[0])
    epoll.poll(0)
time.clock_getres(time.CLOCK_MONOTONIC)
os.umask(0o22)
os.eventfd(0)
os.pipe()
os.dup2(1, 9)
found = "done"
"""
STATIC = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
  char kernel[200], *folder = 0, *output = 0;
  for (int i = 1; i < count; i++) {
    if (!strncmp(words[i], "--output-directory=", 19)) folder = words[i] + 19;
    else if (!strncmp(words[i], "--output=", 9)) output = words[i] + 9;
  }
  snprintf(kernel, sizeof kernel, "%s/kernel", folder);
  FILE *file = fopen(kernel, "w"); fputs("static", file); fclose(file);
  file = fopen(output, "w"); fprintf(file, "kernel %s%c%c", kernel, 0, 0); fclose(file);
  return 0;
}
"""


def test_every_line_is_used_or_says_why_it_is_there(disk: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("this machine has no strace")
    if (platform.machine(), *platform.libc_ver()) != ("x86_64", "glibc", "2.36"):
        pytest.skip("this machine has no C library of Debian 12, of whose calls the policies speak")
    traces = tmp_path / "traces"
    traces.mkdir()
    with traced_calls.installed(traces):
        asyncio.run(all_that_programs_do(disk, programs(tmp_path)))
    traced_calls.settled(traces)
    found = traced_calls.collected(traces)
    objections = [*traced_calls.objections(found, [HelperKind.PROGRAM])]
    assert not objections, "\n".join(objections)


def programs(folder: Path) -> list[Path]:
    """Bootloaders of each sort, but for pygrub."""
    (folder / "static.c").write_text(STATIC)
    subprocess.run(["gcc", "-static", "-o", folder / "static", folder / "static.c"], check=True)
    bash = script(folder / "bash", BASH + DELIVERS)
    bash.write_text(bash.read_text().replace("#!/bin/sh", "#!/bin/bash"))
    return [script(folder / "dash", SHELL), bash, folder / "static", reporting(folder / "python", PYTHON)]


async def all_that_programs_do(disk: Path, found: list[Path]) -> None:
    """Runs each of them to its end, and pygrub."""
    async with Supervisor() as supervisor:
        for program in found:
            await deliver(supervisor, disk, program)
        await deliver(supervisor, disk, PYGRUB, bootloader_args=(b"-q",))
        near, far = socket.socketpair()
        with near, far:
            console = Console(input=far.fileno(), output=far.fileno())
            operation = supervisor.bootloader_operation(BootRequest(disk=disk, bootloader=PYGRUB, console=console))
            operation.start()
            seen = b""
            while b"Will boot" not in seen:
                seen += await asyncio.to_thread(near.recv, 65536)
            near.send(b"\r")
            (await operation.wait()).close()
