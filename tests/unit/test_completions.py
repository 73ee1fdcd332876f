# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shells complete is what the commands know, seen in the shells themselves."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from domward.supervisor import cli, daemon

FOLDER = Path(__file__).parents[2] / "packaging" / "completions"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("completions_generator", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def flags() -> list[tuple[str, tuple[str, ...], set[str]]]:
    """(program, command, its long options) of everything there is."""
    found = []
    made = generator()
    for program, parser in (("domward", cli._parser()), ("domwardd", daemon._parser())):
        for node in made.nodes(parser):
            options = {flag for option in node.options for flag in option.flags if flag.startswith("--")}
            found.append((program, node.path, options))
    return found


ALL = flags()
ids = [" ".join((program, *path)) for program, path, _options in ALL]


@pytest.fixture(autouse=True)
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `domward list` for the shells to ask for ids: there is no daemon here."""
    program = tmp_path / "bin" / "domward"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho OPERATION STATE\necho boot-0123456789ab running\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def run(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"this machine has no {command[0]}")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def by_bash(program: str, *words: str) -> set[str]:
    script = (
        'file=$1 name=$2; shift 2; source "$file"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$name"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(run("bash", "-c", script, "bash", str(FOLDER / f"{program}.bash"), f"_{program}", program, *words))


def by_fish(program: str, *words: str) -> set[str]:
    line = " ".join((program, *words))
    return {
        found.split("\t")[0]
        for found in run("fish", "--no-config", "-c", f"source {FOLDER}/{program}.fish; complete -C '{line}'")
    }


def test_the_files_are_what_the_parsers_make() -> None:
    made: dict[str, Any] = generator().files()
    for name, content in made.items():
        assert (FOLDER / name).read_text() == content, "run packaging/completions/generate.py"
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {*made, "generate.py"}


@pytest.mark.parametrize(("program", "path", "options"), ALL, ids=ids)
def test_bash_knows_every_option(program: str, path: tuple[str, ...], options: set[str]) -> None:
    assert by_bash(program, *path, "--") == options


@pytest.mark.parametrize(("program", "path", "options"), ALL, ids=ids)
def test_fish_knows_every_option(program: str, path: tuple[str, ...], options: set[str]) -> None:
    assert by_fish(program, *path, "--") == options


@pytest.mark.parametrize(("program", "path", "options"), ALL, ids=ids)
def test_zsh_knows_every_option(program: str, path: tuple[str, ...], options: set[str]) -> None:
    """The words that the function of the command gives _arguments, which is replaced to print them."""
    name = "_".join((f"_{program}", *path))
    script = f"_arguments() {{ print -l -- $@ }}; source {FOLDER}/_{program} >/dev/null; {name}"
    given = run("zsh", "-f", "-c", script)
    assert {word.split("[")[0] for word in given if word.startswith("--")} >= options


def test_commands_values_and_files_are_completed(tmp_path: Path) -> None:
    for by in (by_bash, by_fish):
        assert {"run", "inspect", "attach", "audit"} <= by("domward", "")
        assert {"verify", "report"} <= by("domward", "audit", "")
        assert by("domward", "run", "--format", "") >= {"raw", "qcow2"}
        (tmp_path / "guest.img").touch()
        assert f"{tmp_path}/guest.img" in by("domward", "run", f"{tmp_path}/gue")
        assert by("domward", "inspect", "--j") == {"--json"}
        assert by("domward", "attach", "boot") == {"boot-0123456789ab"}


# What a person's own start-up file has, and Ctrl-X, which shows the line as it is and begins another one.
ZSHRC = """
PROMPT='ready> '
fpath=({folder} $fpath)
autoload -Uz compinit
compinit -u -D
shown() {{ zle -I; print -r -- "<$BUFFER>"; zle kill-buffer }}
zle -N shown
bindkey '^X' shown
"""


class Zsh:
    """An interactive zsh on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        if shutil.which("zsh") is None:
            pytest.skip("this machine has no zsh")
        (home / ".zshrc").write_text(ZSHRC.format(folder=FOLDER))
        self._seen = b""
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 250, 0, 0))
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "vt100"}
        self._process = subprocess.Popen(
            ("setsid", "--ctty", "--wait", "zsh", "-d", "-i"), stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        self._until(rb"ready> ")

    def completed(self, typed: str) -> str:
        """What stands on the line after `typed` and the Tab key."""
        self._seen = b""
        os.write(self._master, f"{typed}\t\x18".encode())
        return self._until(rb"<([ -~]*)>\r\n").decode()

    def close(self) -> None:
        os.write(self._master, b"exit\r")
        self._process.wait(60)
        os.close(self._master)

    def _until(self, pattern: bytes) -> bytes:
        while (found := re.search(pattern, self._seen)) is None:
            assert select.select([self._master], [], [], 60)[0], f"zsh says no more than {self._seen!r}"
            self._seen += os.read(self._master, 65536)
        return found[found.re.groups]


def test_zsh_completes_as_a_person_types(tmp_path: Path) -> None:
    (tmp_path / "guest.img").touch()
    with contextlib.closing(Zsh(tmp_path)) as zsh:
        assert zsh.completed("domward insp") == "domward inspect "
        assert zsh.completed("domward audit ver") == "domward audit verify "
        assert zsh.completed("domward run --format q") == "domward run --format qcow2 "
        assert zsh.completed(f"domward run {tmp_path}/gue") == f"domward run {tmp_path}/guest.img "
        assert zsh.completed("domward inspect --j") == "domward inspect --json "
        assert zsh.completed("domward run --deta") == "domward run --detach "
        assert zsh.completed("domward attach boot") == "domward attach boot-0123456789ab "
        assert zsh.completed("domwardd --check") == "domwardd --check-config "
        assert zsh.completed("domward nothing-such") == "domward nothing-such"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_its_file_without_a_complaint(shell: str) -> None:
    for program in ("domward", "domwardd"):
        name = f"_{program}" if shell == "zsh" else f"{program}.{shell}"
        assert run(shell, "-n", str(FOLDER / name)) == []
