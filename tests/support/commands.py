# SPDX-License-Identifier: GPL-3.0-or-later
"""The `domward` command as a process, and what every failure of it must look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-I", "-m", "domward.supervisor")
SECONDS = 100  # for a machine that is busy; domward's own time-outs are what ends a command
EXIT_CODES = {
    "audit-broken": 1,
    "audit-unavailable": 1,
    "failed": 1,
    "out-of-memory": 1,
    "usage": 2,
    "refused": 3,
    "confinement-unavailable": 4,
    "timed-out": 5,
    "helper-died": 6,
    "confinement-failed": 4,
    "cancelled": 130,
    "guest-config": 2,
    "name-taken": 3,
    "no-hypervisor": 3,
}
# Codes that begin so are many.
EXIT_CODES_OF_KINDS = {"disk-": 7, "program-": 6}
_LINE = re.compile(r"domward: ([a-z-]+): ([ -~]+)\n")


def exit_code(code: str) -> int:
    """The exit code that goes with an error code."""
    kind = code[: code.find("-") + 1]
    return EXIT_CODES_OF_KINDS[kind] if kind in EXIT_CODES_OF_KINDS else EXIT_CODES[code]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        assert self.out.count("\n") == 1
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def error(self, code: str) -> str:
        """The sentence of the one line on standard error; the exit code is the one that goes with `code`."""
        line = _LINE.fullmatch(self.err)
        assert line is not None, f"not one line of our form: {self.err!r}"
        assert line[1] == code, self.err
        assert self.code == exit_code(code)
        return line[2]


def domward(*arguments: str | Path, before: tuple[str, ...] = (), **options: Any) -> Ran:
    """Runs it. `before` are words before the command itself; `options` are subprocess.run's."""
    usual: dict[str, Any] = {"capture_output": True, "timeout": SECONDS, "stdin": subprocess.DEVNULL}
    done = subprocess.run((*before, *COMMAND, *arguments), check=False, **usual | options)
    return Ran(done.returncode, (done.stdout or b"").decode("ascii"), (done.stderr or b"").decode("ascii"))


@dataclass(frozen=True)
class EarlierOutput:
    """A folder with the files of an earlier run, to see that a failure leaves them."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> EarlierOutput:
        """Makes it."""
        folder.mkdir()
        for name in ("kernel", "ramdisk", "args"):
            (folder / name).write_text(f"earlier {name}")
        return cls(folder)

    def state(self) -> dict[str, object]:
        """Everything that tells whether somebody touched it."""
        found: dict[str, object] = {}
        for path in sorted(self.folder.iterdir()):
            stat = path.lstat()
            found[path.name] = (stat.st_ino, stat.st_mtime_ns, stat.st_mode, stat.st_size)
            if path.is_file():
                found[path.name + " content"] = path.read_bytes()
        return found


def refusal(folder: Path, *arguments: str | Path, code: str) -> str:
    """Runs `domward run` with `arguments`, an earlier output and --json; returns the sentence.

    It fails with `code`, on standard error in one line and on standard output in one object that agrees with it, and
    leaves the earlier output alone.
    """
    earlier = EarlierOutput.made(folder / "earlier")
    before = earlier.state()
    ran = domward("run", *arguments, "--output-dir", earlier.folder, "--json")
    sentence = ran.error(code)
    error = ran.json()["error"]
    assert set(error) == {"code", "exit_code", "sentence", "advice", "operation", "helper"}
    assert (error["code"], error["exit_code"]) == (code, ran.code)
    assert sentence.startswith(error["sentence"])
    assert error["sentence"][0].isupper() or error["sentence"][0] in "/."
    assert error["sentence"].endswith(".")
    assert earlier.state() == before
    return sentence
