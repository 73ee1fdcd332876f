# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test gets: the leak check, and fixtures for guest disks.

- as root, the tests run in a mount namespace in which /var/log/domward is their own (`support.own_mounts`);
- every test is checked for what it leaves behind (`support.leaks`);
- tests outside tests/unit and tests/fuzz need root: they fail without it under CI, and are skipped elsewhere;
- a skip must name what this machine lacks, and all skips are listed at the end;
- fixtures: `disks` (a `support.disks.DiskFactory` for the session), `kernel` (files of 64 KiB, quick to copy),
  `everybodys` (domward installed where an ordinary user may run it).
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest
from support import child_coverage, own_mounts, traced_calls
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import small_kernel
from support.installation import Installation
from support.leaks import Snapshot, settle

WITHOUT_ROOT = ("unit", "fuzz")
# The words with which a skip may begin; what follows names the feature.
SKIP_REASONS = ("this kernel has no ", "this machine has no ", "needs root")
_children = pytest.StashKey[Path]()
_traces = pytest.StashKey[Path]()
_litter = pytest.StashKey[list[str]]()
_skips = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option of ours."""
    parser.addoption("--trace-calls", action="store_true", help="trace helpers, and show policy lines that none used")


def pytest_configure(config: pytest.Config) -> None:
    """Prepares the lists that are shown at the end, and a place for the logs of the programs under test."""
    config.stash[_skips] = []
    config.stash[_litter] = []
    # nohup, and a shell's &, have signals ignored, and programs that are to be interrupted would inherit that.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    if os.geteuid() == 0:
        own_mounts.enter()
    if config.getoption("trace_calls"):
        traces = tempfile.TemporaryDirectory(prefix="traced-calls-")
        config.add_cleanup(traces.cleanup)
        config.stash[_traces] = Path(traces.name)
        tracing = contextlib.ExitStack()
        tracing.enter_context(traced_calls.installed(config.stash[_traces]))
        config.add_cleanup(tracing.close)
    if coverage.Coverage.current():
        folder = tempfile.TemporaryDirectory(prefix="coverage-of-children-")
        config.add_cleanup(folder.cleanup)
        config.stash[_children] = Path(folder.name)
        measured = contextlib.ExitStack()
        measured.enter_context(child_coverage.installed(config.stash[_children]))
        config.add_cleanup(measured.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Asks for root where a test's folder is not one of those that do without."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] not in WITHOUT_ROOT and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "root")


def pytest_collection_finish() -> None:
    """Puts what was imported so far out of the collector's sight, so that its runs after each test are short."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def root() -> None:
    """Root, without which nothing can be confined, mounted or given away."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("this test needs root, and CI must not pass without it")
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def leak_check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test that leaves anything behind, with the list."""
    base = tmp_path_factory.getbasetemp()
    before = Snapshot.take(base)
    yield
    gc.collect()  # what was dropped unclosed is to warn now, within the test that did it
    found = settle(before, base)
    if found:
        pytest.fail("the test left things behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pauses coverage while fuzzing, and where a test is marked as not to be measured."""
    measuring = coverage.Coverage.current()
    if measuring is None or not ("fuzz" in request.path.parts or request.node.get_closest_marker("unmeasured")):
        yield
        return
    measuring.stop()
    yield
    measuring.start()


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> DiskFactory:
    """Guest disks, each built once in the session."""
    return DiskFactory(tmp_path_factory.mktemp("disks"))


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> DebianKernel:
    """A kernel and an initrd of 64 KiB, for guests whose content does not matter."""
    return small_kernel(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="session")
def everybodys() -> Iterator[Installation]:
    """domward where every user may run it; pytest's own temporary folders are for one user only."""
    with tempfile.TemporaryDirectory(prefix="everybodys-") as folder:
        Path(folder).chmod(0o755)
        yield Installation.made(Path(folder) / "domward")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Notes skips, and turns one that does not say what is missing into a failure."""
    report: pytest.TestReport = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        item.config.stash[_skips].append((item.nodeid, reason))
        if not reason.startswith(SKIP_REASONS):
            report.outcome = "failed"
            report.longrepr = f"a skip must begin with one of {SKIP_REASONS}, not {reason!r}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Lists what was skipped and why, what the run left in the work tree, and the coverage if it was measured."""
    for nodeid, reason in config.stash[_skips]:
        terminalreporter.write_line(f"not run: {nodeid}: {reason}")
    for line in config.stash[_litter]:
        terminalreporter.write_line(f"left in the work tree: {line}", red=True)
    if _traces in config.stash:
        terminalreporter.section("lines of the policies")
        traced_calls.settled(config.stash[_traces])
        found = traced_calls.collected(config.stash[_traces])
        for kind, names in found.items():
            terminalreporter.write_line(f"{kind}: {len(names)} lines used")
        for line in traced_calls.objections(found):
            terminalreporter.write_line(line, red=True)
    measuring = coverage.Coverage.current()
    if measuring:
        measuring.stop()
        measuring.save()
        child_coverage.collected(config.stash[_children], Path(measuring.config.data_file + ".children"))
        combined = coverage.Coverage(messages=False)
        combined.combine()
        table = io.StringIO()
        with contextlib.suppress(coverage.exceptions.NoDataError):  # the chosen tests call nothing of the program
            combined.report(file=table)
        terminalreporter.section("coverage")
        terminalreporter.write(table.getvalue())


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI, which has a clean clone, a run that leaves a file in the work tree has failed."""
    if os.environ.get("CI"):
        command = ["git", "-C", str(Path(__file__).parents[1]), "status", "--porcelain"]
        litter = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        session.config.stash[_litter] = litter
        if litter and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
