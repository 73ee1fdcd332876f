# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's settings: read in order, completed in one place, and every complaint with its file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domward.protocol import limits
from domward.protocol.layers import Layer
from domward.supervisor import paths
from domward.supervisor.config import Config
from domward.supervisor.settings import KEYS, SettingsError, load


def complaint(folder: Path, content: str | bytes) -> str:
    """What is said about a main file with `content`, without the file's folder."""
    file = folder / "domward.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError) as caught:
        load(file, None)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")


def test_row_26_settings_of_files_are_completed_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "domward.toml").write_text("[operations]\nrunning = 8\n\n[budgets]\nwall_seconds = 30\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-site.toml").write_text("operations.running = 9\noperations.live = 100\n")
    (tmp_path / "conf.d" / "20-host.toml").write_text("[operations]\nrunning = 10\n")
    (tmp_path / "conf.d" / "30-not-read.toml.disabled").write_text("nonsense")
    found = load(tmp_path / "domward.toml", tmp_path / "conf.d")
    assert found.of("operations", "running") == 10
    assert found.of("operations", "live") == 100
    assert found.config.budgets.wall_seconds == 30.0
    assert [file.name for file in found.read] == ["domward.toml", "10-site.toml", "20-host.toml"]


def test_no_files_at_all_give_the_defaults(tmp_path: Path) -> None:
    found = load(tmp_path / "none.toml", tmp_path / "none")
    assert found.read == ()
    assert found.config == Config(
        log_directory=paths.CONSOLE_LOGS,
        logs_kept=limits.LOGS_KEPT_BY_DAEMON,
        audit_log=paths.AUDIT_LOG,
        audit_alone=True,
    )


def test_every_kind_of_value(tmp_path: Path) -> None:
    (tmp_path / "domward.toml").write_text(
        '[helpers]\noptional_layers = ["landlock"]\n[files]\nlog_directory = ""\naudit_log = "/a/log"\n'
        '[metrics]\nfile = "/var/lib/x.prom"\nseconds = 2.5\n'
    )
    found = load(tmp_path / "domward.toml", None)
    assert found.config.optional_layers == frozenset({Layer.LANDLOCK})
    assert found.config.log_directory is None
    assert found.config.audit_log == Path("/a/log")
    assert found.of("metrics", "file") == Path("/var/lib/x.prom")
    assert found.of("metrics", "seconds") == 2.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[operations]\nruning = 3\n", "domward.toml:2: There is no key runing in [operations]. The nearest"),
        ("# x\n\n[operatons]\nrunning = 3\n", "domward.toml:3: There is no table operatons. The nearest one is"),
        ("running = 3\n", "domward.toml:1: There is no table running."),
        ("control = 3\n", "domward.toml:1: control must be a table: [control]."),
        ("[operations]\nlive = 1\nrunning = 0\n", "domward.toml:3: running of [operations] must be an integer from 1"),
        ("[operations]\nrunning = true\n", "domward.toml:2: running of [operations] must be an integer"),
        ("[operations]\nrunning = 'x'\n", "domward.toml:2: running of [operations] must be an integer"),
        ("[operations]\nrunning = 3.0\n", "domward.toml:2: running of [operations] must be an integer"),
        ("[budgets]\nwall_seconds = 0\n", "domward.toml:2: wall_seconds of [budgets] must be a number of seconds"),
        ("[budgets]\nwall_seconds = nan\n", "domward.toml:2: wall_seconds of [budgets] must be a number of seconds"),
        ("[budgets]\nhelper_address_space = 5\n", "domward.toml:2: helper_address_space of [budgets] must be"),
        ("[control]\nsocket = 'run/x'\n", "domward.toml:2: socket of [control] must be an absolute path."),
        ("[control]\noperator_group = 'a b'\n", "domward.toml:2: operator_group of [control] must be the name"),
        ("[helpers]\noptional_layers = ['moat']\n", "domward.toml:2: optional_layers of [helpers] must be a list of"),
        ("[helpers]\nuid_count = 7\nuid_base = 4294967290\n", "domward.toml:2: uid_base and uid_count must give"),
        ("[operations\n", "domward.toml:1: it is not TOML: Expected ']'"),
        ("a = 1\na = 2\n", "domward.toml:2: it is not TOML: Cannot overwrite a value."),
        ("a = ", "domward.toml:1: it is not TOML: Invalid value."),
        (b"[control]\n# \xff\n", "domward.toml:2: it is not UTF-8."),
        ("\x1b[31m", "domward.toml:1: it is not TOML: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    found = complaint(tmp_path, content)
    assert found.startswith(said)
    assert found.isprintable()


def test_a_line_is_where_the_key_is_given_not_where_its_name_stands(tmp_path: Path) -> None:
    content = (
        "# running = 1 in a comment\n[control]\nsocket = '''/running\nrunning = 2\n'''\n[operations]\n"
        "live = [\n  'running',\n]\nrunning = 'here'\n"
    )
    for wrong in ("live", "running"):
        kept = content if wrong == "live" else content.replace("[\n  'running',\n]", "3\n\n")
        line = kept.split("\n").index("live = [" if wrong == "live" else "running = 'here'") + 1
        assert complaint(tmp_path, kept).startswith(f"domward.toml:{line}: {wrong} of [operations]")


def test_a_drop_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "50.toml").write_text("\n[metrics]\nfil = 'x'\n")
    with pytest.raises(
        SettingsError, match=r"50\.toml:3: There is no key fil in \[metrics\]\. The nearest one is file"
    ):
        load(tmp_path / "none", tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(SettingsError, match="no regular file"):
        load(tmp_path / "a.toml", None)
    with pytest.raises(SettingsError, match="no regular file"):
        load(tmp_path, None)
    (tmp_path / "big.toml").write_bytes(b"#" * (limits.SETTINGS_BYTES + 1))
    with pytest.raises(SettingsError, match="more than"):
        load(tmp_path / "big.toml", None)


def test_deep_nesting_is_an_error_like_any_other(tmp_path: Path) -> None:
    assert "domward.toml" in complaint(tmp_path, "a = " + "[" * 100_000)


def test_each_key_is_there_once_and_its_default_fits() -> None:
    names = [(key.table, key.name) for key in KEYS]
    assert len(names) == len(set(names))
    for key in KEYS:
        if isinstance(key.default, int | float):
            assert key.check(key.default) == key.default
