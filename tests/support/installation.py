# SPDX-License-Identifier: GPL-3.0-or-later
"""domward installed where every user may read it, as a package would, and run there by an ordinary user.

    done = everybodys.domward("run", disk, uid=12345)

The work tree and its virtual environment may lie in a folder of root's own, which nobody else may enter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from support.commands import SECONDS, Ran

REPOSITORY = Path(__file__).parents[2]
ORDINARY = 64_001  # a uid that nobody on a Debian system has


@dataclass(frozen=True)
class Installation:
    """An interpreter with domward and what it needs; everything is copied, nothing points into the work tree."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Installation:
        """Makes one in `folder`, which every user must be able to reach."""
        packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        packages.mkdir(parents=True)
        (folder / "bin").mkdir()
        base = _interpreter()
        (folder / "bin" / "python").symlink_to(base)
        (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        shutil.copytree(REPOSITORY / "src" / "domward", packages / "domward", ignore=shutil.ignore_patterns("*.pyc"))
        for name in _needed():
            distribution = metadata.distribution(name)
            for file in distribution.files or ():
                target = packages / file
                if ".." not in file.parts and not file.name.endswith(".pyc"):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(distribution.locate_file(file), target)
        subprocess.run([folder / "bin" / "python", "-m", "compileall", "-q", packages], check=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        return cls(folder)

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def command(self) -> tuple[str, ...]:
        """The `domward` command."""
        return (str(self.python), "-I", "-m", "domward.supervisor")

    def domward(
        self, *arguments: str | Path, uid: int = ORDINARY, before: tuple[str | Path, ...] = (), **options: Any
    ) -> Ran:
        """Runs it as the user `uid` with a group of the same number. `before` are words before the command itself."""
        usual: dict[str, Any] = {
            "capture_output": True,
            "timeout": SECONDS,
            "stdin": subprocess.DEVNULL,
            "cwd": "/",
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            "user": uid,
            "group": uid,
            "extra_groups": [],
        }
        done = subprocess.run((*before, *self.command, *arguments), check=False, **usual | options)
        return Ran(done.returncode, (done.stdout or b"").decode("ascii"), (done.stderr or b"").decode("ascii"))


def _interpreter() -> Path:
    """The one that this virtual environment was made from; or the system's, of the same version, where root hides that.

    Skips the test where there is none that an ordinary user can run.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys._base_executable)  # type: ignore[attr-defined]  # public only as a symbolic link
    for candidate in (base, Path("/usr/bin", version)):
        if candidate.exists() and all(parent.stat().st_mode & 0o001 for parent in candidate.resolve().parents):
            return candidate
    pytest.skip(f"this machine has no {version} that an ordinary user can run")


def _needed() -> list[str]:
    """The distributions that domward needs at run time, and that this interpreter needs to have."""
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [match[0] for line in wanted if (match := re.match(r"[A-Za-z0-9._-]+", line))]
    have = {distribution.name.lower() for distribution in metadata.distributions()}
    return [name for name in names if name.lower() in have]
