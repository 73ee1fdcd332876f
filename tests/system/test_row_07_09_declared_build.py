# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 07 and 09: a clean checkout builds with what is declared and nothing else, and works in a host with threads."""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import setuptools
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.supervisor import BootRequest, Supervisor

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
THREADS, RUNS = 4, 3


def names(requirements: list[str]) -> set[str]:
    """The normalised names of `requirements`."""
    found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_row_07_a_clean_checkout_builds_with_the_declared_build_dependency_alone(tmp_path: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this machine has no git history of the tree")
    assert names(PROJECT["build-system"]["requires"]) == {"setuptools"}
    (tmp_path / "gitconfig").write_text("[safe]\n\tdirectory = *\n")
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    clone, alone = tmp_path / "clone", tmp_path / "alone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, clone], check=True, env=environment)
    alone.mkdir()
    installed = Path(setuptools.__file__).parent
    parts = ("setuptools", "_distutils_hack", "pkg_resources", "setuptools-*.dist-info")  # of the one distribution
    for path in (found for part in parts for found in installed.parent.glob(part)):
        (alone / path.name).symlink_to(path)
    build = (
        f"import sys; sys.path.append({str(alone)!r}); from setuptools import build_meta; "
        "build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"
    )
    # -S: no site-packages, so nothing else that is installed here can be used
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", build],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (clone / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "domward/supervisor/command.py" in archive.namelist()


def imported(path: Path) -> set[str]:
    """The top-level names that the module at `path` imports from outside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                found |= {alias.name.split(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.split(".")[0])
            case _:
                continue
    return found


def test_row_07_every_import_is_of_a_declared_dependency() -> None:
    declared = names(PROJECT["project"]["dependencies"])
    homes = importlib.metadata.packages_distributions()
    ours = {"domward", "_typeshed", "compression"}  # _typeshed is for types alone, compression Python 3.14's own
    undeclared = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for side in ("supervisor", "helpers", "protocol")
        for path in (REPOSITORY / side).rglob("*.py")
        for name in imported(path) - sys.stdlib_module_names - ours
        if not names(homes.get(name, [])) & declared and not any(one.startswith(f"{name}-") for one in declared)
    ]
    assert undeclared == []


def test_row_09_supervisors_work_in_several_threads_of_a_busy_host(disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = disks.build(debian_disk("ext4", kernel=kernel))
    wanted = kernel.vmlinuz.read_bytes()
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            read_end, write_end = os.pipe()
            os.close(read_end)
            os.close(write_end)

    def boots(_number: int) -> list[bytes]:
        async def main() -> list[bytes]:
            found = []
            async with Supervisor() as supervisor:
                for _ in range(RUNS):
                    result = await supervisor.run_bootloader(BootRequest(disk=disk))
                    found.append(os.pread(result.kernel.fd.fileno(), result.kernel.size, 0))
                    result.close()
            return found

        return asyncio.run(main())

    noise = [threading.Thread(target=busy) for _ in range(2)]
    for thread in noise:
        thread.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            assert [*pool.map(boots, range(THREADS))] == [[wanted] * RUNS] * THREADS
    finally:
        over.set()
        for thread in noise:
            thread.join()
