# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 15: a hostile environment changes nothing in the launcher and the helpers, nor in a command that is isolated."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import COMMAND, domward
from support.planted import planted

from domward.supervisor import BootRequest, Config, Supervisor

# What the launcher imports, from here and from the standard library.
SHADOWED = ("msgpack", "prctl", "setproctitle", "backports", "domward", "struct", "select", "resource", "usercustomize",
    "sitecustomize")  # fmt: skip


def hostile(folder: Path, *names: str) -> tuple[dict[str, str], Path]:
    """An environment that points at `folder`, in which each module leaves its mark where it is loaded."""
    mark = folder / "loaded"
    inner = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    inner.mkdir(parents=True)
    for name in (*names, "startup"):
        for place in (folder, inner):
            (place / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name}\\n')\n")
    values = dict.fromkeys(
        ("HOME", "TMPDIR", "TMP", "TEMP", "PYTHONPATH", "PYTHONUSERBASE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR",
         "XDG_DATA_HOME", "XDG_STATE_HOME", "DOMWARD_CONFIG", "DOMWARD_STATE"),
        str(folder),
    )  # fmt: skip
    return values | {"PYTHONSTARTUP": str(folder / "startup.py"), "PATH": os.environ["PATH"]}, mark


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_row_15_an_isolated_command_loads_and_writes_nothing_where_the_environment_points(
    disk: Path, tmp_path: Path
) -> None:
    environment, mark = hostile(tmp_path, *SHADOWED)
    before = files(tmp_path)
    ran = domward("run", disk, "--json", env=environment, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert not mark.exists()
    assert files(tmp_path) == before
    assert domward("doctor", env=environment, cwd=tmp_path).code == 0
    assert files(tmp_path) == before


def test_row_15_launcher_and_helpers_ignore_what_a_command_that_is_not_isolated_was_given(
    disk: Path, tmp_path: Path
) -> None:
    environment, mark = hostile(tmp_path, "prctl", "setproctitle")  # which the supervisor's own process never loads
    command = [word for word in COMMAND if word != "-I"]
    done = subprocess.run([*command, "run", disk], check=True, capture_output=True, env=environment, cwd=tmp_path)
    assert done.stderr == b""
    assert not mark.exists()


def test_row_15_the_launchers_environment_is_one_setting_of_ours(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, mark = hostile(tmp_path, *SHADOWED)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = f"import json\nopen({str(tmp_path / 'seen')!r}, 'w').write(json.dumps([dict(os.environ), sys.path]))"

    async def main() -> None:
        async with Supervisor(Config(python=planted(tmp_path, code))) as supervisor:
            (await supervisor.run_bootloader(BootRequest(disk=disk))).close()

    asyncio.run(main())
    seen, path = json.loads((tmp_path / "seen").read_text())
    assert {name: value for name, value in seen.items() if name not in ("PWD", "SHLVL", "_", "OLDPWD")} == {
        "LC_ALL": "C.UTF-8"
    }  # the shell that plants adds its own
    assert not any(Path(entry).is_relative_to(tmp_path) for entry in path)
    assert not mark.exists()
