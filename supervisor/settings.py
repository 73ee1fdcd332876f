# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's settings: TOML files, completed and checked in one place before anything takes effect.

The main file is read first and then each `*.toml` of the drop-in folder, in the order of their names; what a later
file says replaces what an earlier one said, key by key. `KEYS` is every key there is; domward.toml(5) explains them.
A file that is not there counts as empty. Everything else that is wrong raises SettingsError with the file and the line.
"""

from __future__ import annotations

import difflib
import enum
import grp
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.records import frozen, names_of

from . import paths
from .config import Accelerator, Budgets, Config, Hypervisor

_LARGEST = 2**62
_DEFAULTS = Config()
_SYNTAX = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)


class SettingsError(UsageError):
    """Settings that cannot be used; the sentence begins with the file and, where there is one, the line."""

    code = "settings"


class _WrongError(Exception):
    """A value does not fit its key; the text says what was expected."""


@frozen
class Key:
    """One key: its table, its name, how its value is checked, and what it is without one."""

    table: str
    name: str
    check: Callable[[Any], Any]
    default: Any


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _WrongError(f"an integer from {low} to {high}")
        return value

    return check


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise _WrongError(f"a number of seconds from {low:g} to {high:g}")
        return float(value)

    return check


def _path(value: Any) -> Path:
    if type(value) is not str or not Path(value).is_absolute() or "\0" in value:
        raise _WrongError("an absolute path")
    return Path(value)


def _optional_path(value: Any) -> Path | None:
    return None if value == "" else _path(value)


def _group(value: Any) -> str:
    if type(value) is not str or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", value):
        raise _WrongError("the name of a group")
    return value


def _layers(value: Any) -> frozenset[Layer]:
    known = {layer.value: layer for layer in Layer}
    if type(value) is not list or not all(type(name) is str and name in known for name in value):
        raise _WrongError("a list of layers of confinement: " + ", ".join(sorted(known)))
    return frozenset(known[name] for name in value)


def _member(kind: type[enum.Enum]) -> Callable[[Any], enum.Enum]:
    def check(value: Any) -> enum.Enum:
        known = {member.value: member for member in kind}
        if type(value) is not str or value not in known:
            raise _WrongError("one of " + ", ".join(f'"{name}"' for name in known))
        return known[value]

    return check


def _budgets() -> Iterator[Key]:
    for budget in names_of(Budgets):
        default = getattr(_DEFAULTS.budgets, budget)
        if isinstance(default, float):
            yield Key("budgets", budget, _seconds(0.001, 86_400.0), default)
        else:
            low = limits.MIB if budget == "helper_address_space" else 1
            high = 86_400 if budget == "helper_cpu_seconds" else _LARGEST
            yield Key("budgets", budget, _integer(low, high), default)


#: Every key, by table, in the order of domward.toml(5).
KEYS: tuple[Key, ...] = (
    Key("control", "socket", _path, paths.CONTROL_SOCKET),
    Key("control", "operator_group", _group, "domward"),
    Key("control", "auditor_group", _group, "domward-audit"),
    Key("control", "clients", _integer(1, 16_384), limits.CONTROL_CLIENTS),
    Key("control", "clients_per_uid", _integer(1, 16_384), limits.CONTROL_CLIENTS_PER_UID),
    Key("control", "messages_per_second", _integer(1, 1_000_000), limits.CONTROL_MESSAGES_PER_SECOND),
    Key("control", "stuck_seconds", _seconds(0.1, 86_400.0), limits.CONTROL_STUCK_SECONDS),
    Key("operations", "live", _integer(1, 65_536), limits.LIVE_OPERATIONS),
    Key("operations", "live_per_uid", _integer(1, 65_536), limits.LIVE_OPERATIONS_PER_UID),
    Key("operations", "running", _integer(1, 16_384), limits.RUNNING_OPERATIONS),
    Key("operations", "running_per_uid", _integer(1, 16_384), limits.RUNNING_OPERATIONS_PER_UID),
    Key("operations", "finished", _integer(0, 65_536), limits.FINISHED_OPERATIONS),
    Key("operations", "result_seconds", _seconds(0.0, 86_400.0), limits.RESULT_SECONDS),
    Key("helpers", "uid_base", _integer(1, 2**32 - 3), _DEFAULTS.uid_base),
    Key("helpers", "uid_count", _integer(1, 2**32 - 3), _DEFAULTS.uid_count),
    Key("helpers", "optional_layers", _layers, frozenset()),
    Key("files", "state_directory", _path, paths.STATE_DIRECTORY),
    Key("files", "log_directory", _optional_path, paths.CONSOLE_LOGS),
    Key("files", "logs_kept", _integer(1, 1_000_000), limits.LOGS_KEPT_BY_DAEMON),
    Key("files", "audit_log", _optional_path, paths.AUDIT_LOG),
    Key("hypervisor", "backend", _member(Hypervisor), _DEFAULTS.backend),
    Key("hypervisor", "accelerator", _member(Accelerator), _DEFAULTS.accelerator),
    Key("hypervisor", "xenstore", _optional_path, None),
    Key("metrics", "file", _optional_path, None),
    Key("metrics", "seconds", _seconds(0.1, 86_400.0), 15.0),
    *_budgets(),
)


@frozen
class Settings:
    """All settings, complete. `values` has one for each of KEYS; `read` are the files that were there."""

    values: dict[tuple[str, str], Any]
    config: Config
    read: tuple[Path, ...] = ()

    def of(self, table: str, name: str) -> Any:
        """The value of the key `name` of `table`; it has the type that its check gives."""
        return self.values[table, name]


def load(main: Path = paths.SETTINGS_FILE, folder: Path | None = paths.SETTINGS_FOLDER) -> Settings:
    """Reads, completes and checks the settings. Raises SettingsError."""
    values: dict[tuple[str, str], Any] = {(key.table, key.name): key.default for key in KEYS}
    read: list[Path] = []
    homes: dict[tuple[str, str], str] = {}
    for file in (main, *_drop_ins(folder)):
        content = _read(file)
        if content is None:
            continue
        read.append(file)
        for name, value in _checked(file, content).items():
            values[name] = value
            homes[name] = _where(file, content, name)
    return Settings(values, _config(values, homes, main), tuple(read))


def _config(values: dict[tuple[str, str], Any], homes: dict[tuple[str, str], str], main: Path) -> Config:
    """What depends on several keys at once is checked by Config itself; its complaint is told at one of them."""
    given = {name: value for (table, name), value in values.items() if table in ("helpers", "files", "hypervisor")}
    budgets = {name: value for (table, name), value in values.items() if table == "budgets"}
    try:
        return Config(budgets=Budgets(**budgets), audit_alone=True, **given)
    except UsageError as error:
        concerned = [place for (_table, name), place in homes.items() if name in error.sentence]
        raise SettingsError(f"{[*concerned, printable(str(main))][0]}: {error.sentence}") from None


def _drop_ins(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml") and not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"{printable(str(folder))}: it cannot be read: {error.strerror}.") from None
    if len(names) > limits.SETTINGS_FILES:
        raise SettingsError(f"{printable(str(folder))}: it has more than {limits.SETTINGS_FILES} files.")
    return [folder / name for name in names]


def _read(file: Path) -> str | None:
    shown = printable(str(file))
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
        with Fd(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "settings") as fd:
            if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
                raise SettingsError(f"{shown}: it is no regular file.")
            content = os.read(fd.fileno(), limits.SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{shown}: it cannot be read: {error.strerror}.") from None
    if len(content) > limits.SETTINGS_BYTES:
        raise SettingsError(f"{shown}: it has more than {limits.SETTINGS_BYTES} bytes.")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{shown}:{line}: it is not UTF-8.") from None


def _checked(file: Path, content: str) -> dict[tuple[str, str], Any]:
    try:
        tables = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(file, content, str(error)) from None
    except RecursionError:
        raise SettingsError(f"{printable(str(file))}: it is nested too deeply.") from None
    found: dict[tuple[str, str], Any] = {}
    for table, keys in tables.items():
        known = {key.name: key for key in KEYS if key.table == table}
        if not known:
            raise _unknown(file, content, (table,), {key.table for key in KEYS}, "table")
        if not isinstance(keys, dict):
            raise SettingsError(f"{_where(file, content, (table,))}: {table} must be a table: [{table}].")
        for name, value in keys.items():
            if name not in known:
                raise _unknown(file, content, (table, name), set(known), "key")
            try:
                found[table, name] = known[name].check(value)
            except _WrongError as error:
                place = _where(file, content, (table, name))
                raise SettingsError(f"{place}: {name} of [{table}] must be {error}.") from None
    return found


def _syntax_error(file: Path, content: str, message: str) -> SettingsError:
    parts = _SYNTAX.fullmatch(message)
    what = parts["what"] if parts else message
    line = (parts["line"] if parts else None) or len(content.splitlines()) or 1
    return SettingsError(f"{printable(str(file))}:{line}: it is not TOML: {printable(what)}.")


def _unknown(file: Path, content: str, name: tuple[str, ...], known: set[str], kind: str) -> SettingsError:
    (nearest,) = difflib.get_close_matches(name[-1], sorted(known), n=1, cutoff=0.0) or [""]
    where = f" in [{name[0]}]" if len(name) > 1 else ""
    return SettingsError(
        f"{_where(file, content, name)}: There is no {kind} {printable(name[-1])}{where}.",
        advice=f"The nearest one is {nearest}; domward.toml(5) has all.",
    )


def _where(file: Path, content: str, name: tuple[str, ...]) -> str:
    """``FILE:LINE`` of where `name` (a table, or a table and a key) is given; ``FILE`` where it cannot be told.

    tomllib keeps no lines. But the beginning of a file up to a line's end is mostly TOML itself, and the line that
    gives a key is the first whose beginning has it: what looks like the key in a comment or in a text does not count.
    """
    lines = content.split("\n")
    for number, line in enumerate(lines, 1):
        if name[-1] in line and not _has("\n".join(lines[: number - 1]), name):
            for end in range(number, len(lines) + 1):
                given = _has("\n".join(lines[:end]), name)
                if given is not None:
                    break
            if given:
                return f"{printable(str(file))}:{number}"
    return printable(str(file))


def _has(content: str, name: tuple[str, ...]) -> bool | None:
    """Whether the TOML `content` has `name`; None where it is none."""
    try:
        found: Any = tomllib.loads(content)
    except tomllib.TOMLDecodeError:
        return None
    for part in name:
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def group_id(name: str) -> int | None:
    """The number of the group `name`; None where this host has none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
