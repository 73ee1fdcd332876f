# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration is complete and checked when it is made: nothing that it holds fails later, in an operation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from domward.protocol import limits
from domward.protocol.errors import UsageError
from domward.protocol.layers import Layer
from domward.protocol.messages import HelperKind, Spawn
from domward.supervisor import BootRequest, Budgets, Config, Console


def test_the_default_needs_no_argument() -> None:
    config = Config()
    assert config.budgets.wall_seconds == limits.WALL_SECONDS
    assert config.optional_layers == frozenset()
    assert config.python.is_absolute()


@pytest.mark.parametrize("name", Budgets.__slots__)
@pytest.mark.parametrize("value", [0, -1, True, "1", None, float("nan"), float("inf"), 2**63])
def test_a_budget_is_a_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        Budgets(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("helper_cpu_seconds", 86_401), ("helper_address_space", limits.MIB - 1), ("kernel_bytes", 1.5)],
)
def test_a_budget_that_no_helper_could_be_told_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        Budgets(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"), [("helper_cpu_seconds", (1, 86_400)), ("helper_address_space", (1 << 20,))]
)
def test_the_extremes_of_a_budget_fit_the_message_that_carries_it(name: str, values: tuple[int, ...]) -> None:
    rest = {"operation": "", "uid": 1, "gid": 1, "file_bytes": 0, "without": (), "grouped": False}
    request = partial(Spawn, request=1, kind=HelperKind.PTY, **rest)
    for value in values:
        budgets = Budgets(**{name: value})
        request(address_space=budgets.helper_address_space, cpu_seconds=budgets.helper_cpu_seconds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"uid_base": 0},
        {"uid_count": 0},
        {"uid_base": True},
        {"uid_base": 1.0},
        {"uid_base": 2**32 - 10, "uid_count": 9},
        {"optional_layers": frozenset({"seccomp"})},
        {"absent_layers": frozenset({None})},
        {"state_directory": "/run/domward"},
        {"state_directory": Path("relative")},
        {"python": Path("python3")},
    ],
)
def test_what_cannot_mean_anything_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Config(**wrong)


def test_layers_are_named_by_the_enum() -> None:
    assert Config(optional_layers=frozenset({Layer.LANDLOCK})).optional_layers == {Layer.LANDLOCK}


@pytest.mark.parametrize(
    "wrong",
    [
        {"disk": "guest.img"},
        {"entry": "Linux"},
        {"entry": b"x" * (limits.TITLE_BYTES + 1)},
        {"args": b"x" * (limits.CMDLINE_BYTES + 1)},
        {"args": b"two\nlines"},
        {"args": b"nul\0"},
        {"image_format": "vmdk"},
        {"menu_timeout": -1},
        {"menu_timeout": 86_401},
    ],
)
def test_a_request_that_cannot_mean_anything_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BootRequest(**({"disk": Path("guest.img")} | wrong))


@pytest.mark.parametrize(("columns", "rows"), [(0, 24), (80, 0), (1001, 24), (80, -1)])
def test_a_console_without_a_size_is_refused(columns: int, rows: int) -> None:
    with pytest.raises(UsageError, match="columns and rows"):
        Console(0, 1, columns, rows)
