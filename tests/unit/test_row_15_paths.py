# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 15: each side's paths are in one module, and none comes from the environment."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import pytest
from support.literal_paths import environment_asked, modules, paths_written_out

from domward.helpers import paths as helper_paths
from domward.supervisor import Config, paths

REPOSITORY = Path(__file__).parents[2]
HOMES = {Path("supervisor/paths.py"), Path("helpers/paths.py")}
# The names of files on a guest's disk; the helper that reads them has an empty root.
GUESTS = Path("helpers/reader")
# What systemd tells a service; supervisor/service.py reads those variables and no other, and removes them.
FOR_SYSTEMD = (Path("supervisor/daemon.py"), "environ")


def test_row_15_absolute_paths_are_written_out_in_one_module_of_each_side() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {text}"
        for path in modules(REPOSITORY, "supervisor", "helpers", "protocol")
        for line, text in paths_written_out(path.read_text())
        if path.relative_to(REPOSITORY) not in HOMES and not path.relative_to(REPOSITORY).is_relative_to(GUESTS)
    ]
    assert found == []


def test_row_15_nothing_looks_into_the_environment() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in modules(REPOSITORY, "supervisor", "helpers", "protocol")
        for line, name in environment_asked(path.read_text())
        if (path.relative_to(REPOSITORY), name) != FOR_SYSTEMD
    ]
    assert found == []
    daemon = (REPOSITORY / FOR_SYSTEMD[0]).read_text()
    assert [*environment_asked(daemon)] == [(ANY, "environ")]
    assert "Service.from_environment(os.environ)" in daemon


@pytest.mark.parametrize(
    "line",
    ["open('/etc/passwd')", "x = b'/dev/null'", "os.chdir('/')", "f'/proc/{pid}'", "x = 'a\\0/run/x'", "Path('/var')"],
)
def test_row_15_a_path_that_is_written_out_is_found(line: str) -> None:
    assert [*paths_written_out(line)]


@pytest.mark.parametrize(
    "line", ["def f():\n    '/etc is not read'", "'a/b'", "'1/2'", "'kernel'", "f'{PROC}/self'", "''", "'>/<'"]
)
def test_row_15_what_is_no_path_is_not(line: str) -> None:
    assert [*paths_written_out(line)] == []


@pytest.mark.parametrize(
    "line",
    ["os.environ['HOME']", "os.getenv('X')", "from os import environ", "Path.home()", "import tempfile",
     "path.expanduser()", "from tempfile import mkdtemp", "import subprocess", "shutil.which('x')"],
)  # fmt: skip
def test_row_15_a_look_into_the_environment_is_found(line: str) -> None:
    assert [*environment_asked(line)]


def test_row_15_the_defaults_are_those_of_the_module_and_absolute() -> None:
    assert (Config().state_directory, Config().python) == (paths.STATE_DIRECTORY, paths.PYTHON)
    for module in (paths, helper_paths):
        for name, value in vars(module).items():
            if name.isupper():
                for path in (value,) if isinstance(value, str | Path) else value:
                    assert Path(path).is_absolute(), name
