# SPDX-License-Identifier: GPL-3.0-or-later
"""The man page of `domward-bootloader` and the program say the same."""

from __future__ import annotations

import re
from pathlib import Path

import domward
from domward.protocol import errors, limits
from domward.protocol.errors import DomwardError
from domward.supervisor import front_end_arguments, front_end_session, paths
from domward.supervisor.front_end_answer import AnswerFormat

PAGE = Path(__file__).parents[2] / "packaging" / "man" / "domward-bootloader.1"
TEXT = re.sub(r"\\[&|]", "", PAGE.read_text(encoding="ascii")).replace(r"\-", "-")
SYNOPSIS = TEXT[TEXT.index(".SH SYNOPSIS") : TEXT.index(".SH DESCRIPTION")]
OPTIONS = TEXT[TEXT.index(".SH OPTIONS") : TEXT.index(".SH EXIT STATUS")]
LOOKING = {option for option in front_end_arguments._LOOKING if option.startswith("--")}
TAKEN = {f"--{option.rstrip('=')}" for option in front_end_arguments._LONG} - LOOKING
TELLING = {"--help", "--version"}


def test_every_option_is_in_the_synopsis_explained_and_in_the_help() -> None:
    assert set(re.findall(r"--[a-z-]+", SYNOPSIS)) == TAKEN | TELLING
    explained = re.findall(r"^\.TP\n\.B[IR]? (?:-[a-z] \", \" )?(--[a-z-]+)", OPTIONS, re.MULTILINE)
    assert sorted(explained) == sorted(TAKEN)
    assert set(re.findall(r"--[a-z-]+", front_end_session._HELP)) == TAKEN


def test_every_exit_code_is_listed() -> None:
    section = TEXT[TEXT.index(".SH EXIT STATUS") : TEXT.index(".SH DIAGNOSTICS")]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DomwardError)]
    assert {int(code) for code in re.findall(r"\b\d+\b", section)} - {1} >= {kind.exit_code for kind in kinds} - {1}


def test_values_are_those_of_the_program() -> None:
    assert f"--output-format= {'|'.join(['simple0', 'simple', 'sxp'])}" in OPTIONS
    assert {kind.value for kind in AnswerFormat} == {"simple0", "simple", "sxp"}
    assert f"{limits.WALL_SECONDS:g} by default" in OPTIONS
    assert f"At most {limits.CMDLINE_BYTES} bytes" in OPTIONS
    assert f".I {paths.PYGRUB_OUTPUT}\n" in OPTIONS
    assert f'"domward {domward.__version__}"' in TEXT.splitlines()[1]
