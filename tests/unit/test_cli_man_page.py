# SPDX-License-Identifier: GPL-3.0-or-later
"""The man page and the command say the same: options, codes, exit codes, limits."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import domward
from domward.protocol import errors, limits
from domward.protocol.errors import DiskError, DiskReason, DomwardError, ProgramReason
from domward.supervisor import cli

PAGE = Path(__file__).parents[2] / "packaging" / "man" / "domward.1"
TEXT = re.sub(r"\\[&|]", "", PAGE.read_text(encoding="ascii")).replace(r"\-", "-")
SYNOPSIS = TEXT[TEXT.index(".SH SYNOPSIS") : TEXT.index(".SH DESCRIPTION")]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its long options; a short form is another name of one of them."""
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of `parser`; of one that has commands of its own, those instead, as "audit show"."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                inner = below(command)
                found |= {f"{name} {word}": one for word, one in inner.items()} if inner else {name: command}
    return found


def commands() -> dict[str, argparse.ArgumentParser]:
    return below(cli._parser())


def error_classes() -> list[type[DomwardError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DomwardError)]


@pytest.mark.parametrize("name", commands())
def test_the_synopsis_has_the_options_of_each_command(name: str) -> None:
    block = re.search(rf'\.SY "domward {name}"\n(.*?)\.YS', SYNOPSIS, re.DOTALL)
    assert block is not None
    in_page = set(re.findall(r"(?<!\S)--[a-z-]+", block[1]))
    assert in_page == options_of(commands()[name]) - {"--help"}


def test_every_option_is_explained_and_nothing_else_is() -> None:
    wanted = options_of(cli._parser()).union(*(options_of(parser) for parser in commands().values()))
    explained = set(re.findall(r"^\.TP\n\.B[IR]? \"?(--[a-z-]+)", TEXT, re.MULTILINE))
    assert explained | {"--help", "--version"} == wanted
    assert wanted >= set(re.findall(r"(?<![a-z-])--[a-z]+(?:-[a-z]+)*", TEXT))
    assert {"--help", "--version"} <= set(re.findall(r"--[a-z]+", SYNOPSIS))


def test_every_command_has_a_section() -> None:
    assert re.findall(r"^\.SS domward ([a-z -]+)$", TEXT, re.MULTILINE) == [*commands()]


def test_every_code_is_listed_and_nothing_else_is() -> None:
    section = TEXT[TEXT.index(".SH DIAGNOSTICS") : TEXT.index(".SH LIMITS")]
    listed = set(re.findall(r"^\.BR ([a-z-]+) ", section, re.MULTILINE))
    codes = {kind.code for kind in error_classes() if kind is not DiskError}
    reasons = {reason.value for kind in (DiskReason, ProgramReason) for reason in kind}
    assert listed == codes | reasons | {"out-of-memory"}


def test_every_exit_code_is_listed() -> None:
    section = TEXT[TEXT.index(".SH EXIT STATUS") : TEXT.index(".SH DIAGNOSTICS")]
    listed = {int(code) for code in re.findall(r"^\.TP\n\.B (\d+)$", section, re.MULTILINE)}
    assert listed == {0} | {kind.exit_code for kind in error_classes()}


def test_limits_are_those_of_the_program() -> None:
    section = TEXT[TEXT.index(".SH LIMITS") : TEXT.index(".SH ENVIRONMENT")].replace("\n", " ")
    assert f"Kernel {limits.KERNEL_BYTES >> 20} MiB; ramdisk {limits.RAMDISK_BYTES >> 30} GiB" in section
    assert f"command line {limits.CMDLINE_BYTES} bytes" in section
    assert f"{limits.ENTRIES} entries" in section
    assert f"configuration {limits.CONFIG_BYTES >> 20} MiB a file and {limits.CONFIG_TOTAL_BYTES >> 20} MiB" in section
    assert f"memory {limits.HELPER_ADDRESS_SPACE >> 30} GiB and CPU time {limits.HELPER_CPU} s" in section
    assert f"{limits.WALL_SECONDS:g} by default" in TEXT


def test_the_version_is_the_programs() -> None:
    assert f'"domward {domward.__version__}"' in TEXT.splitlines()[1]


def test_the_page_has_no_warnings() -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("this machine has no man")
    done = subprocess.run(
        ["man", "--warnings", "-l", PAGE],
        check=True,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert "DOMWARD(1)" in done.stdout
