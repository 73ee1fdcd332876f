# SPDX-License-Identifier: GPL-3.0-or-later
"""Every helper kind, looked at from outside; every layer missing, refused by the kernel, or lied about.

What is read from /proc here is read by this file's own code, not by the supervisor's.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted

from domward.protocol import limits
from domward.protocol.errors import ConfinementFailed, ConfinementUnavailable, ProtocolViolation
from domward.protocol.layers import NAMESPACE_FILES, Layer
from domward.protocol.messages import HelperKind
from domward.supervisor import BootRequest, Config, Supervisor
from domward.supervisor.helper import Helper
from domward.supervisor.verification import UNSEEN, Privileges

KINDS = list(HelperKind)
FILE_BYTES = 12_345_678


@asynccontextmanager
async def a_helper(kind: HelperKind, config: Config) -> AsyncIterator[Helper]:
    """A confined helper that has no work yet."""
    async with Supervisor(config) as supervisor:
        helper = Helper(kind, "test", await supervisor.host())
        try:
            await helper.start(FILE_BYTES)
            yield helper
        finally:
            await helper.close()


def read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def status(pid: int) -> dict[str, list[str]]:
    lines = read(pid, "status").splitlines()
    return {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}


def namespace(pid: int, layer: Layer) -> str:
    return os.readlink(f"/proc/{pid}/ns/{NAMESPACE_FILES[layer]}")


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    lines = read(pid, "limits").splitlines()[1:]
    return {line[:25].strip(): (line[26:46].strip(), line[47:67].strip()) for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_a_helper_seen_from_outside(kind: HelperKind) -> None:
    async def main() -> None:
        config = Config()
        async with a_helper(kind, config) as helper:
            pid = helper.child.pid
            seen = status(pid)
            uid = int(seen["Uid"][0])
            assert uid in range(config.uid_base, config.uid_base + config.uid_count)
            assert seen["Uid"] == seen["Gid"] == [str(uid)] * 4
            assert seen["Groups"] == []
            assert seen["PPid"] == [str(os.getpid())]
            assert seen["Threads"] == ["1"]
            assert seen["NSpid"] == [str(pid), "1"]
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(seen[name][0], 16) == 0, name
            assert seen["NoNewPrivs"] == ["1"]
            assert seen["Seccomp"] == ["2"]
            assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "not dumpable"
            for layer in NAMESPACE_FILES:
                assert namespace(pid, layer) != namespace(os.getpid(), layer), layer
            seen_limits = limits_of(pid)
            for name, value in (
                ("Max address space", limits.HELPER_ADDRESS_SPACE),
                ("Max cpu time", limits.HELPER_CPU),
                ("Max file size", FILE_BYTES),
                ("Max open files", limits.HELPER_FDS),
                ("Max processes", limits.PROGRAM_PROCESSES if kind is HelperKind.PROGRAM else 0),
                ("Max core file size", 0),
                ("Max locked memory", 0),
                ("Max msgqueue size", 0),
            ):
                assert seen_limits[name] == (str(value), str(value)), name
            assert read(pid, "cmdline").rstrip("\0 ") == f"domward: {kind.value} test"
            fds = {int(n): os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
            assert [fds.pop(number) for number in (0, 1, 2)] == ["/dev/null"] * 3
            assert len(fds) == 1
            assert all(target.startswith("socket:") for target in fds.values())
            assert helper.verified is not None
            assert set(helper.verified.layers) == set(Layer)
            assert set(helper.verified.seen) == set(Layer) - UNSEEN

    asyncio.run(main())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not HelperKind.PROGRAM])
def test_a_helpers_root_holds_nothing_but_what_opens_a_pty(kind: HelperKind) -> None:
    async def main() -> None:
        async with a_helper(kind, Config()) as helper:
            root = Path(f"/proc/{helper.child.pid}/root")
            mounts = read(helper.child.pid, "mountinfo").splitlines()
            points = [line.split()[4] for line in mounts]
            if kind is HelperKind.PTY:
                assert points == ["/", "/pts"]
                assert sorted(os.listdir(root)) == ["ptmx", "pts"]
                assert os.stat(root / "ptmx").st_rdev == os.makedev(5, 2)
            else:
                assert points == ["/"]
                assert os.listdir(root) == []
                assert "ro" in mounts[0].split()[5].split(",")
            assert os.readlink(f"/proc/{helper.child.pid}/cwd") == "/"
            # a session of its own, without terminal
            fields = read(helper.child.pid, "stat").rpartition(")")[2].split()
            assert int(fields[3]) == helper.child.pid
            assert int(fields[4]) == 0

    asyncio.run(main())


# --- missing layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", list(Layer))
def test_a_layer_that_is_missing_and_not_optional_is_refused_by_name(layer: Layer) -> None:
    async def main() -> None:
        with pytest.raises(ConfinementUnavailable, match=f"lacks {layer.value}: ") as caught:
            async with Supervisor(Config(absent_layers=frozenset({layer}))):
                pass
        assert caught.value.exit_code == 4
        assert caught.value.code == "confinement-unavailable"
        assert layer.value in caught.value.advice

    asyncio.run(main())


def is_off(layer: Layer, pid: int, launcher: int) -> bool:
    """Whether /proc shows that `layer` is not on. The launcher's own no_new_privs stays, and the kernel makes a
    process that changed its uid undumpable: those two, and what /proc does not show, count as off here."""
    seen = status(pid)
    if layer is Layer.MOUNT:
        return namespace(pid, layer) == namespace(launcher, layer)
    if layer in NAMESPACE_FILES:
        return namespace(pid, layer) == namespace(os.getpid(), layer)
    looks: dict[Layer, Callable[[], bool]] = {
        Layer.USER: lambda: seen["Uid"] == ["0"] * 4,
        Layer.GROUPS: lambda: seen["Groups"] == status(os.getpid())["Groups"],
        Layer.RLIMITS: lambda: limits_of(pid)["Max address space"] == limits_of(os.getpid())["Max address space"],
        Layer.CAPABILITIES: lambda: int(seen["CapEff"][0], 16) != 0,
        Layer.SECCOMP: lambda: seen["Seccomp_filters"] == status(launcher)["Seccomp_filters"],
    }
    return looks.get(layer, lambda: True)()


@pytest.mark.parametrize("layer", list(Layer))
def test_a_layer_that_is_optional_is_left_out_and_everything_else_is_on(
    layer: Layer, disks: DiskFactory, kernel: DebianKernel
) -> None:
    disk = disks.build(debian_disk(kernel=kernel))

    async def main() -> None:
        config = Config(absent_layers=frozenset({layer}), optional_layers=frozenset({layer}))
        async with a_helper(HelperKind.BOOTLOADER, config) as helper:
            assert helper.verified is not None
            assert set(helper.verified.layers) == set(Layer) - {layer}
            launcher = helper.host.launcher.child
            assert launcher is not None
            assert is_off(layer, helper.child.pid, launcher.pid)
        async with Supervisor(config) as supervisor:
            result = await supervisor.run_bootloader(BootRequest(disk=disk))
            result.close()
            assert all(layer not in verified.layers for verified in result.helpers)

    asyncio.run(main())


# --- steps that the kernel refuses ------------------------------------------------------------------------------

STEPS = {
    Layer.USER: "kernel.keep_capabilities = refuse",
    Layer.GROUPS: "os.setgroups = refuse",
    Layer.MOUNT: "kernel.pivot_here = refuse",
    Layer.UTS: "kernel.set_host_name = refuse",
    Layer.RLIMITS: "resource.setrlimit = refuse",
    Layer.SECUREBITS: "kernel.lock_securebits = refuse",
    Layer.CAPABILITIES: (
        "real = kernel.set_capabilities; kernel.set_capabilities = lambda kept: real(kept) if kept else refuse()"
    ),
    Layer.NO_NEW_PRIVS: "kernel.set_no_new_privs = refuse",
    Layer.DUMPABLE: "kernel.set_not_dumpable = refuse",
    Layer.PARENT_DEATH: "kernel.set_parent_death_signal = refuse",
    Layer.LANDLOCK: "kernel.landlock_deny_all = refuse",
    Layer.SECCOMP: "kernel.load_seccomp_filter = refuse",
}


def test_every_layer_that_is_a_step_of_its_own_is_refused_here_once() -> None:
    made_with_the_process = set(NAMESPACE_FILES) - {Layer.MOUNT, Layer.UTS}
    assert set(STEPS) | made_with_the_process == set(Layer)


def start_and_fail(python: Path, kind: HelperKind = HelperKind.DATACOPIER) -> ConfinementFailed:
    async def main() -> ConfinementFailed:
        with pytest.raises(ConfinementFailed) as caught:
            async with a_helper(kind, Config(python=python)):
                pass
        return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", list(STEPS))
def test_a_step_that_the_kernel_refuses_is_named_and_leaves_nothing(
    layer: Layer, kind: HelperKind, tmp_path: Path
) -> None:
    indented = STEPS[layer]
    error = start_and_fail(planted(tmp_path, f"def change():\n    {indented}\nin_the_helper(change)"), kind)
    assert error.step == layer.value
    assert "Operation not permitted" in error.sentence
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("kernel.clone_sibling = refuse", "clone"),
        ("kernel.mount = refuse", "prepare-roots"),
        ("kernel.unshare = refuse", "prepare-roots"),
        ("kernel.set_parent_death_signal = refuse", "launcher-start"),
        ("kernel.drop_bounding_set = refuse", "launcher-capabilities"),
        ("def change(): del kernel.set_host_name\nin_the_helper(change)", "defect-AttributeError"),
    ],
)
def test_a_step_before_or_beside_the_layers_is_named_too(code: str, step: str, tmp_path: Path) -> None:
    assert start_and_fail(planted(tmp_path, code)).step == step


def test_a_host_that_allows_less_memory_than_helpers_get_is_refused_at_the_step() -> None:
    script = (
        "import asyncio, resource\n"
        "from domward.supervisor import Supervisor\n"
        "from domward.supervisor.helper import Helper\n"
        "from domward.protocol.errors import ConfinementFailed\n"
        "from domward.protocol.messages import HelperKind\n"
        "resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))\n"
        "async def main():\n"
        "    async with Supervisor() as s:\n"
        "        try:\n"
        "            await Helper(HelperKind.PTY, 'test', await s.host()).start()\n"
        "        except ConfinementFailed as error:\n"
        "            print(error.step, error.sentence)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("rlimits Confining a helper failed at step 'rlimits': Operation not permitted.")


# --- lies -------------------------------------------------------------------------------------------------------


def without_namespace(flag: str) -> str:
    return f"real = launcher.namespaces; launcher.namespaces = lambda without: real(without) & ~kernel.{flag}"


def without_limit(name: str) -> str:
    return (
        "real = resource.setrlimit\n"
        f"resource.setrlimit = lambda what, pair: None if what == resource.RLIMIT_{name} else real(what, pair)"
    )


# After the change of uid, which the C library would have every thread take part in.
THREAD = (
    "\nthread = lambda program: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    "in_the_helper(lambda: setattr(kernel, 'load_seccomp_filter', thread))"
)

NO_FILTER = "\nin_the_helper(lambda: setattr(kernel, 'load_seccomp_filter', lambda program: None))"

LIES = [
    (Layer.USER, "os.setresgid = lambda *ids: None"),
    (Layer.USER, without_limit("NPROC") + THREAD),
    (Layer.GROUPS, "real = os.setgroups; os.setgroups = lambda groups: real([4])"),
    (Layer.MOUNT, without_namespace("CLONE_NEWNS") + "; confinement._enter_root = lambda kind: None"),
    (Layer.MOUNT, "confinement._enter_root = lambda kind: None"),
    (Layer.PID, without_namespace("CLONE_NEWPID")),
    (Layer.NETWORK, without_namespace("CLONE_NEWNET")),
    (Layer.IPC, without_namespace("CLONE_NEWIPC")),
    (Layer.UTS, without_namespace("CLONE_NEWUTS") + "; kernel.set_host_name = lambda name: None"),
    (Layer.CGROUP, without_namespace("CLONE_NEWCGROUP")),
    *(
        (Layer.RLIMITS, without_limit(name))
        for name in ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "MEMLOCK", "MSGQUEUE")
    ),
    (Layer.CAPABILITIES, "real = kernel.set_capabilities; kernel.set_capabilities = lambda kept: kept and real(kept)"),
    (Layer.CAPABILITIES, "in_the_helper(lambda: setattr(kernel, 'drop_bounding_set', lambda: None))"),
    (Layer.NO_NEW_PRIVS, "kernel.set_no_new_privs = confinement._landlock = lambda *rest: None" + NO_FILTER),
    (Layer.DUMPABLE, "kernel.set_not_dumpable = lambda: kernel.prctl.set_dumpable(True)"),
    (Layer.SECCOMP, NO_FILTER),
]


def test_there_is_a_lie_about_every_layer_that_can_be_seen() -> None:
    assert {layer for layer, _ in LIES} == set(Layer) - UNSEEN


@pytest.mark.parametrize(("layer", "code"), LIES)
def test_a_helper_that_claims_a_layer_without_having_it_is_found_out(
    layer: Layer, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a launcher lacks as well would be found there, before there is a helper.
    monkeypatch.setattr("domward.supervisor.launcher.verify_launcher", lambda pid, **_rest: Privileges.of(pid))
    error = start_and_fail(planted(tmp_path, code))
    assert error.step == layer.value
    assert "did not verify" in error.sentence


@pytest.mark.parametrize("layer", list(Layer))
def test_a_helper_that_does_not_claim_a_layer_that_it_must_have_is_refused(layer: Layer, tmp_path: Path) -> None:
    code = (
        "real = launcher.confine\n"
        f"launcher.confine = lambda *rest: tuple(layer for layer in real(*rest) if layer.value != {layer.value!r})"
    )
    assert start_and_fail(planted(tmp_path, code)).step == layer.value


@pytest.mark.parametrize(
    "keep",
    ["os.dup(0)", "socket.socketpair()[0].detach()", "os.open('/', os.O_RDONLY)", "os.memfd_create('kept')"],
)
def test_an_fd_that_a_helper_kept_is_found(keep: str, tmp_path: Path) -> None:
    assert start_and_fail(planted(tmp_path, f"in_the_helper(lambda: {keep})")).step == "fds"


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_helper_with_another_uid_than_its_lease_is_a_violation(pidfds: bool, tmp_path: Path) -> None:
    python = planted(tmp_path, "os.setresuid = lambda *ids: None")

    async def main() -> None:
        with pytest.raises(ProtocolViolation, match="first message came from"):
            async with a_helper(HelperKind.PTY, Config(python=python, identify_by_pidfd=pidfds)):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_launcher_that_names_another_process_is_found_out(pidfds: bool, tmp_path: Path) -> None:
    code = (
        "real = kernel.clone_sibling\n"
        "def clone(namespaces):\n"
        "    pid, pidfd = real(namespaces)\n"
        "    return (pid and os.getpid(), pidfd)\n"
        "kernel.clone_sibling = clone"
    )
    python = planted(tmp_path, code)

    async def main() -> None:
        with pytest.raises(ProtocolViolation, match="and not from process"):
            async with a_helper(HelperKind.PTY, Config(python=python, identify_by_pidfd=pidfds)):
                pass

    asyncio.run(main())


# --- older kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", range(1, 8))
@pytest.mark.parametrize("kind", KINDS)
def test_landlock_is_put_on_as_each_of_its_versions_can(kind: HelperKind, abi: int, tmp_path: Path) -> None:
    python = planted(tmp_path, f"kernel.landlock_abi = lambda: {abi}")

    async def main() -> None:
        async with a_helper(kind, Config(python=python)) as helper:
            assert helper.verified is not None
            assert Layer.LANDLOCK in helper.verified.layers

    asyncio.run(main())


def test_without_landlock_a_kernel_is_refused_unless_it_is_optional(tmp_path: Path) -> None:
    python = planted(tmp_path, "kernel.landlock_abi = lambda: 0")

    async def main() -> None:
        with pytest.raises(ConfinementUnavailable, match="lacks landlock"):
            async with Supervisor(Config(python=python)):
                pass
        async with a_helper(
            HelperKind.PTY, Config(python=python, optional_layers=frozenset({Layer.LANDLOCK}))
        ) as helper:
            assert helper.verified is not None
            assert set(helper.verified.layers) == set(Layer) - {Layer.LANDLOCK}

    asyncio.run(main())


def test_without_seccomp_a_kernel_is_refused_unless_it_is_optional(tmp_path: Path) -> None:
    python = planted(tmp_path, "kernel.seccomp_available = lambda: False")

    async def main() -> None:
        with pytest.raises(ConfinementUnavailable, match="lacks seccomp"):
            async with Supervisor(Config(python=python)):
                pass
        config = Config(python=python, optional_layers=frozenset({Layer.SECCOMP}))
        async with a_helper(HelperKind.PTY, config) as helper:
            assert status(helper.child.pid)["Seccomp"] == ["0"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_before_pidfds_in_messages_a_helper_is_identified_by_the_kernels_pid(kind: HelperKind) -> None:
    async def main() -> None:
        async with a_helper(kind, Config(identify_by_pidfd=False, exit_info_from_pidfd=False)) as helper:
            assert helper.child.alive

    asyncio.run(main())
