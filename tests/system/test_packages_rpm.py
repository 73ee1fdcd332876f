# SPDX-License-Identifier: GPL-3.0-or-later
"""The RPM: built from a clean clone, and its contents compared with the tree.

This host's distribution has none of the macros of those that use RPM, so packaging/rpm/macros.elsewhere stands in for
them, and the package is looked at but not installed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.packages import REPOSITORY, Source

SIDES = ("supervisor/", "helpers/", "protocol/")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A clone in which the package was built."""
    source = Source(tmp_path_factory.mktemp("rpm"))
    source.run("packaging/build-rpm")
    return source


@pytest.fixture
def package(source: Source) -> Path:
    """The package to install."""
    (found,) = (source.path / "build/rpm").glob("domward-*.noarch.rpm")
    return found


def asked(package: Path, *query: str) -> set[str]:
    """The lines of the answer to a query."""
    done = subprocess.run(["rpm", "--query", "--package", *query, package], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines())


def test_the_package_is_built_from_a_clean_clone_that_stays_clean(source: Source, package: Path) -> None:
    assert source.status() == ""
    assert list(package.parent.glob("domward-*.src.rpm"))


def test_the_package_holds_every_module_and_every_file_of_the_service(source: Source, package: Path) -> None:
    files = asked(package, "--list")
    sides = {path for path in source.tracked() if path.startswith(SIDES) and not path.endswith("/ruff.toml")}
    (home,) = (file.removesuffix("/__init__.py") for file in files if file.endswith("/domward/__init__.py"))
    installed = {file.removeprefix(f"{home}/") for file in files if file.startswith(f"{home}/")}
    assert {name for name in installed if Path(name).suffix not in ("", ".pyc")} == sides | {"__init__.py", "py.typed"}
    pages = {f"/usr/share/man/man{page.suffix[1:]}/{page.name}" for page in REPOSITORY.glob("packaging/man/*.[1-8]")}
    assert files >= pages | {
        "/usr/bin/domward",
        "/usr/bin/domward-bootloader",
        "/usr/sbin/domwardd",
        "/usr/lib/systemd/system/domwardd.service",
        "/usr/lib/systemd/system/domwardd.socket",
        "/usr/lib/sysusers.d/domward.conf",
        "/usr/lib/tmpfiles.d/domward.conf",
        "/usr/share/bash-completion/completions/domward",
        "/usr/share/zsh/site-functions/_domward",
        "/usr/share/fish/vendor_completions.d/domward.fish",
        "/usr/share/domward/domwardd-qemu.conf",
        "/etc/domward/conf.d",
        "/etc/domward/domward.toml",
    }
    assert asked(package, "--configfiles") == {"/etc/domward/domward.toml"}
    assert asked(package, "--queryformat", "%{LICENSE}\n") == {"GPL-3.0-or-later"}


def test_its_commands_run_the_distributions_python_isolated(package: Path, tmp_path: Path) -> None:
    archive = subprocess.run(["rpm2cpio", package], check=True, capture_output=True).stdout
    subprocess.run(["cpio", "--extract", "--quiet", "--make-directories"], input=archive, cwd=tmp_path, check=True)
    for command in ("usr/bin/domward", "usr/bin/domward-bootloader", "usr/sbin/domwardd"):
        assert "exec /usr/bin/python3 -I " in (tmp_path / command).read_text()
