# SPDX-License-Identifier: GPL-3.0-or-later
"""domwardd.8 and domward.toml.5 say what the daemon does: its options, its exit codes, every key and its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import domward
from domward.supervisor import daemon
from domward.supervisor.service import Service
from domward.supervisor.settings import KEYS, load

MAN = Path(__file__).parents[2] / "packaging" / "man"


def text(name: str) -> str:
    return re.sub(r"\\[&|]", "", (MAN / name).read_text(encoding="ascii")).replace(r"\-", "-").replace(r"\(dq", '"')


def test_the_options_are_those_of_the_daemon_both_ways() -> None:
    page = text("domwardd.8")
    options = {word for action in daemon._parser()._actions for word in action.option_strings} - {"-h"}
    synopsis = page[page.index(".SH SYNOPSIS") : page.index(".SH DESCRIPTION")]
    assert set(re.findall(r"(?<!\S)--[a-z-]+", synopsis)) == options
    explained = set(re.findall(r"^\.TP\n\.B[IR]? \"?(--[a-z-]+)", page, re.MULTILINE))
    assert explained | {"--help", "--version"} == options


def test_every_variable_that_is_read_is_named() -> None:
    read: dict[str, str] = {}

    class Asked(dict[str, str]):
        def pop(self, key: str, *_default: object) -> str:  # type: ignore[override]  # as Service calls it
            read[key] = key
            return ""

    Service.from_environment(Asked())
    systemd = text("domwardd.8").split(".SH SYSTEMD")[1].split(".SH ")[0]
    assert set(re.findall(r"^\.BR ([A-Z_]+) ", systemd, re.MULTILINE)) == set(read)


def test_every_key_is_explained_with_its_default_and_nothing_else_is() -> None:
    page = text("domward.toml.5")
    found: dict[tuple[str, str], str] = {}
    for table, keys in re.findall(r"^\.SH \[([a-z]+)\]\n(.*?)(?=^\.SH )", page, re.MULTILINE | re.DOTALL):
        for name, default in re.findall(r'^\.TP\n\.BR ([a-z_]+) " = (.*)"$', keys, re.MULTILINE):
            found[table, name] = default
    assert [*found] == [(key.table, key.name) for key in KEYS]
    for key in KEYS:
        value = tomllib.loads(f"x = {found[key.table, key.name]}")["x"]
        assert key.check(value) == key.default, key.name


def test_the_example_can_be_used(tmp_path: Path) -> None:
    page = text("domward.toml.5")
    (example,) = re.findall(r"^\.SH EXAMPLE\n\.nf\n\.RS\n(.*?)^\.RE", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "domward.toml").write_text(example)
    assert load(tmp_path / "domward.toml", None).of("operations", "running") == 16


@pytest.mark.parametrize("name", ["domwardd.8", "domward.toml.5"])
def test_the_version_is_the_programs(name: str) -> None:
    assert f'"domward {domward.__version__}"' in text(name).splitlines()[1]
