# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds domward's packages from a clean clone of what is committed here, as `make deb` does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


class Source:
    """A clone of this repository in `folder`, with a version of its own where one is given."""

    def __init__(self, folder: Path, version: str = "") -> None:
        if not (REPOSITORY / ".git").exists():
            pytest.skip("this machine has no git history of the tree")
        self.path = folder / "clone"
        (folder / "gitconfig").write_text(
            "[safe]\n\tdirectory = *\n[user]\n\tname = a test\n\temail = test@domward.invalid\n"
        )
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "LC_ALL": "C.UTF-8",
        }
        self.run("git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, self.path, folder=folder)
        if version:
            _replace(self.path / "src/domward/__init__.py", r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"')
            _replace(self.path / "packaging/rpm/domward.spec", r"(?m)^(Version: +).*$", rf"\g<1>{version}")
            _replace(self.path / "packaging/debian/changelog", r"\Adomward \(.*?\)", f"domward ({version})")
            self.run("git", "commit", "--quiet", "--all", "--message", "Another version")

    def run(self, *command: str | Path, folder: Path | None = None) -> str:
        """Runs a command in the clone, with nothing of this process's settings; its output."""
        done = subprocess.run(
            command, cwd=folder or self.path, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deb(self, output: Path) -> Path:
        """Builds the Debian package in the folder `output`."""
        self.run("packaging/build-deb", output)
        (found,) = output.glob("domward_*.deb")
        return found

    def tracked(self) -> set[str]:
        """The files that git tracks."""
        return set(self.run("git", "ls-files", "-z").rstrip("\0").split("\0"))

    def status(self) -> str:
        """What git sees that is not committed."""
        return self.run("git", "status", "--porcelain")


def _replace(path: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, path.read_text())
    assert count == 1
    path.write_text(changed)
