# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian package: built from a clean clone, looked at by lintian; installed, used and removed in a clean Debian.

That Debian is a real one, with systemd as process 1 (`support.debian_machine`); it has what the package depends on and
no network.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.debian_machine import DebianMachine, debian_tree
from support.disks import DiskFactory
from support.guests import debian_disk, expected
from support.packages import REPOSITORY, Source
from support.programs import DELIVERS, script
from support.tiny_guests import tiny_disk, tiny_kernel
from support.unit_exposure import documented, exposures, figure

import domward

COMPLETIONS = {
    "*.bash": "/usr/share/bash-completion/completions",
    "_*": "/usr/share/zsh/vendor-completions",
    "*.fish": "/usr/share/fish/vendor_completions.d",
}
NEWER = f"{domward.__version__}.1"
GROUPS = ("domward", "domward-audit")
REFUSED = 3  # the exit code
GROUP = "/sys/fs/cgroup/system.slice/domwardd.service"
# This host's, and another one where that is asked for: its tree takes longer to make than all else here.
RELEASES = [None, pytest.param("trixie", marks=pytest.mark.bench)]


# Prints an operation and all that its console shows: of a new one, which shows its menu, or of the one that is named.
CLIENT = """
import json, sys; sys.path.insert(0, "/usr/lib/domward")
from domward.protocol.client import Client, Screen
with Client("/run/domward/control.sock") as client, open("/mnt/guest.img", "rb") as disk:
    operation = sys.argv[1]
    if operation == "run":
        submitted = client.run(disk.fileno(), console=Screen(menu_timeout=1))
        operation = submitted.operation
        client.result(submitted).close()
    shown = b"".join(output.content for output in client.messages(client.attach(operation).request))
    print(json.dumps([operation, shown.decode()]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A clone of this tree."""
    return Source(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def deb(source: Source) -> Path:
    """Its package."""
    return source.deb(source.path / "build/deb")


@pytest.fixture
def share(tmp_path: Path, deb: Path) -> Path:
    """A folder with the package, for a machine's /mnt."""
    share = tmp_path / "share"
    share.mkdir()
    shutil.copy(deb, share / "domward.deb")
    return share


def test_row_01_the_package_is_built_from_a_clean_clone_that_stays_clean_and_twice_the_same(
    source: Source, deb: Path, tmp_path: Path
) -> None:
    again = source.deb(tmp_path)
    assert source.status() == ""
    assert again.name == deb.name
    assert again.read_bytes() == deb.read_bytes()


def test_lintian_finds_neither_error_nor_warning(deb: Path) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", deb]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("release", RELEASES, ids=["own", "debian-13"])
def test_the_service_works_and_what_it_wrote_survives_an_upgrade_and_a_removal_and_goes_with_purge(
    release: str | None, share: Path, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    disks.copy(debian_disk("ext4", kernel=kernel), share / "guest.img")
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    script(share / "loader", DELIVERS)
    shutil.copy(Source(tmp_path, NEWER).deb(tmp_path), share / "newer.deb")

    def boots() -> None:
        machine.run("domward", "run", "--daemon", "/mnt/guest.img", "--output-dir", "/root/out")
        assert machine.path("/root/out/kernel").read_bytes() == wanted.kernel
        assert machine.path("/root/out/ramdisk").read_bytes() == wanted.ramdisk
        assert machine.path("/root/out/args").read_text() == wanted.args
        shutil.rmtree(machine.path("/root/out"))

    def completed() -> list[str]:
        records = machine.run("domward", "audit", "show", "--json", "--event", "completion").stdout.splitlines()
        return [json.loads(record)["operation"] for record in records]

    with DebianMachine(debian_tree(release), share) as machine:
        before = files(machine)
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        assert state(machine) == ["active", "active"]
        assert machine.run("domward", "--version").stdout == f"domward {domward.__version__}\n"
        assert json.loads(machine.run("domward", "doctor", "--json").stdout)["usable"] is True
        assert "/usr/sbin/domwardd" in processes(machine)
        boots()
        assert main_pid(machine) in machine.run("cat", f"{GROUP}/supervisor/cgroup.procs").stdout.split()
        assert not [*machine.path(GROUP).glob("domward-*")]
        opened = machine.run("domward", "audit", "show", "--json", "--event", "supervisor-opened").stdout
        assert json.loads(opened)["detail"]["groups"] is not None
        (first,) = completed()
        operation, shown = json.loads(machine.run("python3", "-I", "-c", CLIENT, "run").stdout)
        assert "Debian GNU/Linux" in shown
        program = ("domward", "run", "--daemon", "--bootloader", "/mnt/loader", "--json")
        shutil.copy(share / "guest.img", machine.path("/root"))  # on overlayfs, which has no id-mapped mounts
        for disk in ("/mnt/guest.img", "/root/guest.img"):
            assert json.loads(machine.run(*program, disk).stdout)["args"] == "from a script"
        machine.path("/root/guest.img").unlink()
        machine.path("/etc/domward/conf.d/site.toml").write_text("[operations]\nrunning = 3\n")
        machine.path("/var/lib/domward/key").write_text("of an administrator's")
        machine.run("systemctl", "reload", "domwardd")
        pid = main_pid(machine)

        machine.run("dpkg", "--install", "/mnt/newer.deb")
        assert state(machine) == ["active", "active"]
        assert main_pid(machine) != pid  # systemd started it anew, and kept what the console showed
        assert json.loads(machine.run("python3", "-I", "-c", CLIENT, operation).stdout) == [operation, shown]
        assert machine.run("domwardd", "--version").stdout == f"domwardd {NEWER}\n"
        assert "site.toml" in machine.run("domwardd", "--check-config").stdout
        boots()
        assert completed()[0] == first
        assert len(completed()) == 5
        machine.run("domward", "audit", "verify")

        machine.run("dpkg", "--remove", "domward")
        assert state(machine) == ["inactive", "inactive"]
        assert processes(machine) == ""
        assert {"audit.log", "audit.log.head"} <= {path.name for path in machine.path("/var/log/domward").iterdir()}
        assert machine.path("/etc/domward/conf.d/site.toml").exists()
        assert machine.path("/var/lib/domward/key").exists()

        machine.run("dpkg", "--purge", "domward")
        assert files(machine) == before
        assert not machine.path("/run/domward").exists()


@pytest.mark.parametrize("release", RELEASES, ids=["own", "debian-13"])
def test_roles_are_groups_and_a_killed_daemon_comes_back(
    release: str | None, share: Path, disks: DiskFactory, kernel: DebianKernel
) -> None:
    disks.copy(debian_disk("ext4", kernel=kernel), share / "guest.img").chmod(0o644)
    with DebianMachine(debian_tree(release), share) as machine:
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        groups = {name: machine.run("getent", "group", name).stdout.split(":")[2] for name in GROUPS}

        def by(group: str, *words: str) -> subprocess.CompletedProcess[str]:
            user = ("--reuid=60001", "--regid=60001", f"--groups={group}", "--bounding-set=-all")
            return machine.run("setpriv", *user, "domward", *words, check=False)

        run = ("run", "--daemon", "/mnt/guest.img", "--json")
        assert json.loads(by(groups["domward"], *run).stdout)["kernel"]["size"] == kernel.vmlinuz.stat().st_size
        assert by(groups["domward-audit"], *run).returncode == REFUSED
        assert by(groups["domward-audit"], "list").returncode == 0
        assert by("60001", "list").returncode == REFUSED
        verify = ("audit", "verify", "/var/log/domward/audit.log")
        assert by(groups["domward-audit"], *verify).returncode == 0
        assert by(groups["domward"], *verify).returncode != 0  # the log is the auditors' to read

        machine.run("sh", "-c", f"kill -s KILL {main_pid(machine)}")
        assert machine.run("domward", "list").stderr == ""  # the socket is still there, and starts it where it is asked
        assert state(machine) == ["active", "active"]
        machine.run("domward", "audit", "verify")


def test_the_package_has_what_the_tree_has_for_those_who_use_it(source: Source, deb: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(listed)) as archive:
        files = {member.name.removeprefix(".") for member in archive if member.isfile()}
    pages = {f"/usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in REPOSITORY.glob("packaging/man/*.[1-8]")}
    completions = {
        f"{folder}/{path.stem if path.suffix == '.bash' else path.name}"
        for pattern, folder in COMPLETIONS.items()
        for path in REPOSITORY.glob(f"packaging/completions/{pattern}")
    }
    assert files >= pages | completions
    assert len(completions) == 6
    modules = {path.removeprefix("/usr/lib/domward/domward/") for path in files if path.startswith("/usr/lib/domward/")}
    ours = {path for path in source.tracked() if path.startswith(("supervisor/", "helpers/", "protocol/"))}
    assert modules == {path for path in ours if not path.endswith("/ruff.toml")} | {"__init__.py", "py.typed"}


def test_row_15_nothing_of_the_callers_environment_reaches_the_installed_commands(share: Path) -> None:
    hostile = share / "hostile"
    hostile.mkdir()
    for name in ("sitecustomize", "usercustomize", "os", "argparse", "domward", "msgpack"):
        (hostile / f"{name}.py").write_text("print('taken from the environment')\n")
    with DebianMachine(debian_tree(), share) as machine:
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        settings = {"PYTHONPATH": "/mnt/hostile", "HOME": "/mnt/hostile", "PYTHONUSERBASE": "/mnt/hostile"}
        assert "taken" in machine.run("python3", "-c", "", **settings).stdout  # it would be seen
        for command in ("domward --version", "domwardd --version", "domward-bootloader --version", "domward doctor"):
            assert "taken" not in machine.run(*command.split(), **settings).stdout


def test_the_units_are_sound_and_each_exposure_of_the_service_has_its_reason_in_docs(share: Path) -> None:
    page = (REPOSITORY / "docs/administration.md").read_text()
    with DebianMachine(debian_tree(), share) as machine:
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        verified = machine.run("systemd-analyze", "verify", "--man=no", "domwardd.service", "domwardd.socket")
        assert verified.stdout + verified.stderr == ""
        unit = "/lib/systemd/system/domwardd.service"
        analyse = ("systemd-analyze", "security", "--offline=true")
        machine.run(*analyse, f"--threshold={figure(page) * 10:.0f}", unit)
        found = exposures(json.loads(machine.run(*analyse, "--json=short", unit).stdout))
    assert figure(page) < 4.0
    assert found == documented(page)


def test_the_apparmor_profile_is_sound() -> None:
    profile = REPOSITORY / "packaging/apparmor/usr.sbin.domwardd"
    command = ["apparmor_parser", "--skip-kernel-load", "--skip-cache", profile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def state(machine: DebianMachine) -> list[str]:
    """Whether the service and its socket are active."""
    return machine.run("systemctl", "is-active", "domwardd.service", "domwardd.socket", check=False).stdout.split()


def processes(machine: DebianMachine) -> str:
    """The command lines of domward's processes."""
    return machine.run("sh", "-c", "grep --text --no-filename '[d]omward' /proc/[0-9]*/cmdline || true").stdout


def main_pid(machine: DebianMachine) -> str:
    """The daemon's process id."""
    return machine.run("systemctl", "show", "--property=MainPID", "--value", "domwardd.service").stdout.strip()


def files(machine: DebianMachine) -> set[str]:
    """All files and folders of the machine that are to be as they were once the package is purged."""
    places = ["/etc", "/usr", "/var/lib", "/var/log", "/srv", "/opt", "/root"]
    moving = ("/var/lib/dpkg/", "/var/log/journal/", "/var/log/dpkg.log", "/etc/group-", "/etc/gshadow-")
    found = machine.run("find", *places, "-xdev", "-print0").stdout.rstrip("\0").split("\0")
    return {path for path in found if not path.startswith(moving)}


def test_guests_run_in_qemu_under_the_packaged_unit(share: Path, disks: DiskFactory, tmp_path: Path) -> None:
    shutil.copy(disks.build(tiny_disk(tiny_kernel(tmp_path))), share / "guest.img")
    (share / "web.cfg").write_text('name = "web"\nmemory = 32\ndisk = ["/mnt/guest.img,raw,xvda,r"]\n')
    with DebianMachine(debian_tree(), share) as machine:
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        refused = machine.run("domward", "create", "/mnt/web.cfg", check=False)
        assert (refused.returncode, "domward: no-hypervisor: " in refused.stderr) == (REFUSED, True)
        install_qemu_of_this_host(machine)
        settings = machine.path("/etc/domward/conf.d/guests.toml")
        settings.write_text('[hypervisor]\nbackend = "qemu"\naccelerator = "tcg"\n')
        machine.run("systemctl", "restart", "domwardd.service")
        assert machine.run("domward", "create", "/mnt/web.cfg").stdout.startswith("web runs: guest-")
        assert len(qemus(machine)) == 1
        assert machine.run("domward", "destroy", "web").stdout == "web is gone.\n"
        drop_in = "/etc/systemd/system/domwardd.service.d/qemu.conf"
        machine.run("install", "-D", "-m", "644", "/usr/share/domward/domwardd-qemu.conf", drop_in)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "domwardd.service")
        assert "/dev/kvm rw" in machine.run("systemctl", "show", "-p", "DeviceAllow", "domwardd").stdout
        machine.run("domward", "create", "/mnt/web.cfg")
        machine.run("systemctl", "stop", "domwardd.service", "domwardd.socket")
        assert qemus(machine) == []


def qemus(machine: DebianMachine) -> list[str]:
    """Every qemu in the machine."""
    return machine.run("sh", "-c", "grep --text -l '^/usr/bin/qemu-system' /proc/[0-9]*/cmdline || true").stdout.split()


def install_qemu_of_this_host(machine: DebianMachine) -> None:
    """The program, the libraries and the firmware that it takes; the machine is of this host's release."""
    wanted = {Path("/usr/bin/qemu-system-x86_64"), *Path("/usr/lib/x86_64-linux-gnu/qemu").glob("accel-tcg-*.so")}
    told = subprocess.run(["ldd", *sorted(wanted)], check=True, capture_output=True, text=True).stdout
    wanted |= {Path(found) for found in re.findall(r"=> (/\S+) ", told)}
    for folder in ("/usr/share/qemu", "/usr/share/seabios"):
        shutil.copytree(folder, machine.path(folder), dirs_exist_ok=True, ignore_dangling_symlinks=True)
    for file in wanted:
        place = machine.path(str(file))
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
