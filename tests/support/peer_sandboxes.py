# SPDX-License-Identifier: GPL-3.0-or-later
"""The peers that attacks also run in: pygrub with --runas, and a program in bubblewrap's sandbox.

pygrub is Debian's, unpacked; where it parses the disk, which is after it has given up its privilege, it calls the
library xenfsimage, and the attack stands in that library's place. bubblewrap runs the attack as an administrator
would run a bootloader with it, as root:

    bwrap --unshare-all --die-with-parent --ro-bind / / --dev /dev --proc /proc PROGRAM
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.peers import Pygrub

from support.arena import judged
from support.attacks.attacker import NOTEBOOK_BYTES, Notebook
from support.attacks.bundle import INTERPRETER, bundle
from support.attacks.everything import ATTACKS
from support.hostile_host import HostileHost

BWRAP = ("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")
RAN = 77  # the end of the program that is run from memory
PYGRUB_UID = 1_900_065_535  # of the range that domward would give its helpers
SECONDS = 60.0

# What pygrub finds beside itself in place of libxenfsimage's module: loaded with privilege, called without it.
_LIBRARY = """
import sys
sys.path.insert(0, {bundle!r})
from attacks.peer_side import Prisoner
prisoner = Prisoner({notebook!r})

def init():
    return 0

def open(*_):
    prisoner.attack()
"""


#: Attacks that change the process itself where they succeed, so that each needs one of its own.
_ALONE = """
run-a-program run-a-program-from-memory mount-in-a-namespace-of-its-own chroot-and-climb-out pivot-back
mount-a-file-system bind-the-root uncover-the-root make-a-mount-writable make-a-user-namespace
clone-into-a-user-namespace make-a-mount-namespace make-a-pid-namespace make-a-network-namespace make-an-ipc-namespace
make-an-uts-namespace make-a-cgroup-namespace make-a-time-namespace join-the-namespaces-of-another become-root
become-root-with-the-old-call become-group-root join-a-group use-files-as-root regain-capabilities
unlock-the-securebits raise-an-ambient-capability become-dumpable replace-the-filter take-all-memory
take-all-memory-in-pieces use-up-its-fds use-up-all-ptys lock-memory raise-its-limits run-before-everybody
"""
ALONE = frozenset(_ALONE.split())


class Peers:
    """Both peers, with one notebook."""

    def __init__(self, folder: Path, host: HostileHost, pygrub: Pygrub) -> None:
        self._host = host
        self._folder = folder
        self._said = folder / "said"
        self._bundle = bundle(folder / "attacks.zip")
        path = folder / "notebook"
        path.write_bytes(bytes(NOTEBOOK_BYTES))
        self._notebook = Notebook(path)
        self._pygrub = pygrub
        self._program = self._copy_of_pygrub(path)
        code = f"import sys; sys.path.insert(0, {str(self._bundle)!r}); from attacks.peer_side import Prisoner; "
        self._sandboxed = [*BWRAP, INTERPRETER, "-I", "-c", code + f"Prisoner({str(path)!r}).attack()"]
        # The root is read-only in the sandbox, and a notebook is written to.
        self._sandboxed[-4:-4] = ["--bind", str(path), str(path)]
        self.names: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            "pygrub --runas": self._start_pygrub,
            "bwrap --unshare-all": self._start_bwrap,
        }

    def close(self) -> None:
        """Lets the notebook go."""
        self._notebook.close()

    def outcomes(self, peer: str) -> dict[str, str]:
        """How each attack that makes sense there ended in `peer`, shown as in `attacks.table.Stop`."""
        names = [name for name, attack in ATTACKS.items() if attack.peers]
        together = [name for name in names if name not in ALONE]
        found = self._run(peer, together)
        for name in names:
            if name in ALONE:
                found |= self._run(peer, [name])
        return {name: found[name] for name in names}

    def _run(self, peer: str, attacks: list[str]) -> dict[str, str]:
        """Runs `attacks` in one process of `peer`, and undoes what they did to the canaries."""
        self._notebook.order({"attacks": attacks, "targets": self._host.targets()})
        process = self.names[peer]()
        try:
            status = process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
        self._host.restore()
        found: dict[str, list[str]] = {}
        for line in self._notebook.report():
            if line.startswith("attack "):
                notes = found.setdefault(line.split()[1], [])
            else:
                notes.append(line)
        if found.keys() != set(attacks):
            raise AssertionError(f"{set(attacks) - found.keys()} were not tried in {peer}, which ended with {status}")
        if b"ran\n" in self._said.read_bytes():  # pygrub does not pass on how its child ended, but what it said
            status = RAN
        return {name: judged(notes, status)[0] for name, notes in found.items()}

    def _copy_of_pygrub(self, notebook: Path) -> Path:
        """pygrub's own script, beside which lies the module that stands for its library."""
        folder = self._folder / "xen" / "bin"
        folder.mkdir(parents=True)
        original = self._pygrub.folder / "usr/lib/xen-4.17"
        shutil.copy(original / "bin" / "pygrub", folder / "pygrub")
        (folder.parent / "lib").symlink_to(original / "lib")
        (folder / "xenfsimage.py").write_text(_LIBRARY.format(bundle=str(self._bundle), notebook=str(notebook)))
        return folder / "pygrub"

    def _start_pygrub(self) -> subprocess.Popen[bytes]:
        output = self._folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        (output / "result").touch()
        words = [INTERPRETER, str(self._program), f"--runas={PYGRUB_UID}", "-q", "--offset=0"]
        words += [f"--output={output / 'result'}", "--output-format=simple0", f"--output-directory={output}"]
        return self._started([*words, str(self._host.disk)], self._pygrub.environment())

    def _start_bwrap(self) -> subprocess.Popen[bytes]:
        return self._started(self._sandboxed, {"PATH": os.environ["PATH"]})

    def _started(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        nothing = subprocess.DEVNULL
        with self._said.open("wb") as said:
            return subprocess.Popen(command, env=environment, stdin=nothing, stdout=said, stderr=nothing)
