# SPDX-License-Identifier: GPL-3.0-or-later
"""Where attacks are run: supervisors whose helpers a guest has taken over, and the look from outside after each.

Each attack is one whole operation with a console, pty, relay and bootloader, one of whose helpers performs it. What
has been run once is remembered, so that the tests of a theme and the page about all of them see the same run.
"""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass
from pathlib import Path

from domward.protocol.errors import DomwardError, HelperDied, ProgramError
from domward.protocol.layers import Layer
from domward.protocol.records import replaced
from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor
from support.attacks.attacker import NOTEBOOK_BYTES, Notebook
from support.attacks.bundle import bundle
from support.attacks.everything import ATTACKS, Attack
from support.attacks.program_side import MARK
from support.hostile_host import HostileHost, HostState
from support.planted import planted
from support.soak import all_hashing_threads

BUDGETS = Budgets(wall_seconds=30, term_grace_seconds=1.0, helper_cpu_seconds=1, log_bytes=64 * 1024)
HURRY_SECONDS = 1.0
PROGRAM = "program"
_TRIES = 3
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """How one attack ended. `shows` as in `attacks.table.Stop`, as the process itself shows it; `code` is the
    operation's error, or "delivered"; `differences` is what the host shows of it."""

    shows: str
    call: str
    code: str
    report: tuple[str, ...]
    error: DomwardError | None
    differences: tuple[str, ...]

    def is_one_of(self, shows: frozenset[str]) -> bool:
        """Whether it ended so; a kernel that does not have the call at all stops it as well."""
        return bool({self.shows, self.code} & (shows | {"ENOSYS"}))

    def was_made(self, kind: str) -> bool:
        """Whether the attack was made at all: not where another helper failed first, of a machine's load."""
        return bool(self.report) or self.error is None or self.error.helper.startswith((kind, "program"))

    def describe(self) -> str:
        """For a failed test."""
        return f"{self.shows} at {self.call or '?'}, {self.code}; error {self.error!r}; notes {list(self.report)}"


class Arena:
    """Supervisors with and without seccomp, and one in a hurry, one host of canaries, one notebook."""

    def __init__(self, folder: Path, host: HostileHost) -> None:
        self.host = host
        path = folder / "notebook"
        path.write_bytes(bytes(NOTEBOOK_BYTES))
        self._notebook = Notebook(path)
        self._program = bundle(folder / "bootloader")
        self._logs = folder / "logs"
        self._logs.mkdir(mode=0o700)
        code = (
            f"sys.path.insert(0, {str(TESTS)!r})\nfrom support.attacks import helper_side\n"
            f"helper_side.plant(launcher._RUN, {str(path)!r})\n"
            f"helper_side.plant_before_the_work(launcher, {str(path)!r})"
        )
        self._python = planted(folder, code)
        # Not absent_layers, with which helpers would still have the filter of their launcher.
        (folder / "without-seccomp").mkdir()
        no_seccomp = "\nkernel.seccomp_available = lambda: False"
        self._without_seccomp = planted(folder / "without-seccomp", code + no_seccomp)
        self._supervisors: dict[str, Supervisor] = {}
        self._seen: dict[tuple[str, str, bool], Outcome] = {}
        self._state: HostState | None = None  # what the host showed after the last attack, and so before the next
        self._runner = asyncio.Runner()

    def open(self) -> None:
        """Starts the supervisors."""
        optional = frozenset({Layer.SECCOMP})
        for name, config in (
            ("confined", self._config(self._python, BUDGETS)),
            ("hurried", self._config(self._python, replaced(BUDGETS, wall_seconds=HURRY_SECONDS))),
            ("without seccomp", replaced(self._config(self._without_seccomp, BUDGETS), optional_layers=optional)),
        ):
            self._supervisors[name] = Supervisor(config)
            self._runner.run(self._supervisors[name].open())
            self._runner.run(all_hashing_threads(self._supervisors[name]))

    def _config(self, python: Path, budgets: Budgets) -> Config:
        return Config(python=python, budgets=budgets, log_directory=self._logs)

    def close(self) -> None:
        """Ends everything."""
        for supervisor in self._supervisors.values():
            self._runner.run(supervisor.close())
        self._runner.close()
        self._notebook.close()

    def outcome(self, name: str, kind: str, *, seccomp: bool) -> Outcome:
        """How the attack `name` ends in a helper of `kind`, run now or before."""
        key = (name, kind, seccomp)
        if key not in self._seen:
            outcome = self._run(ATTACKS[name], kind, seccomp)
            for _ in range(_TRIES):
                if outcome.was_made(kind):
                    break
                outcome = self._run(ATTACKS[name], kind, seccomp)
            self._seen[key] = outcome
        return self._seen[key]

    def _run(self, attack: Attack, kind: str, seccomp: bool) -> Outcome:
        before = self._state or self.host.state()
        order = {"attack": attack.name, "kind": kind, "targets": self.host.targets()}
        self._notebook.order(order)
        supervisor = "without seccomp" if not seccomp else "hurried" if attack.takes_its_time else "confined"
        request = BootRequest(disk=self.host.disk, console=Console(self.host.slave, self.host.slave))
        if kind == PROGRAM:
            words = (json.dumps(order).encode(),)
            request = replaced(request, bootloader=self._program, bootloader_args=words)
        error = self._runner.run(_operate(self._supervisors[supervisor], request))
        self._state = self.host.state()
        differences = before.differences(self._state)
        said = self._said()
        report = said if kind == PROGRAM else self._notebook.report()
        shows, call = judged(report, error.status if isinstance(error, HelperDied | ProgramError) else None)
        code = error.code if error else "delivered"
        return Outcome(shows, call, code, tuple(report), error, tuple(differences))

    def say_out_of_state(self, kind: str, when: str, datagram: bytes) -> DomwardError | None:
        """How an operation ends in which a helper of `kind` sends `datagram` at a certain time of its life.

        `when` is "starting", before its first message; "idle", after it; "working" or "inspecting", with its order;
        "answered", after its answer.
        """
        self._notebook.order({"kind": kind, "when": when, "datagram": datagram.hex()})
        supervisor = self._supervisors["confined"]
        if when == "inspecting":
            return self._runner.run(_inspect(supervisor, self.host.disk))
        console = Console(self.host.slave, self.host.slave)
        error = self._runner.run(_operate(supervisor, BootRequest(disk=self.host.disk, console=console)))
        self._said()
        return error

    def _said(self) -> list[str]:
        """The report of a program, from the log of what it showed."""
        lines = []
        for log in self._logs.iterdir():
            lines += log.read_text(errors="replace").splitlines()
            log.unlink()
        return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


async def _inspect(supervisor: Supervisor, disk: Path) -> DomwardError | None:
    try:
        await supervisor.inspect(disk)
    except DomwardError as error:
        return error
    return None


async def _operate(supervisor: Supervisor, request: BootRequest) -> DomwardError | None:
    try:
        (await supervisor.run_bootloader(request)).close()
    except DomwardError as error:
        return error
    return None


def judged(report: list[str], status: int | None) -> tuple[str, str]:
    """What the notes and the exit status of a process say about its attack: how it shows, and the last call made."""
    calls = [line.split()[1] for line in report if line.startswith("trying ")]
    call = calls[-1] if calls else ""
    last = report[-1].split() if report else ["nothing"]
    if last[0] == "stopped":
        return last[2], last[1]
    if last[0] in ("prevented", "succeeded", "defect"):
        return last[0] if last[0] != "defect" else report[-1], call
    if status == -signal.SIGSYS and last[0] == "trying":
        return "SIGSYS", call
    if last[0] in ("trying", "done"):  # it may come during the call that brings it, or right after
        expected = [line.split()[1] for line in report if line.startswith("expects ")]
        if expected and status == int(expected[-1]):
            return "succeeded", call
    if status == -signal.SIGKILL:
        return "SIGKILL", call
    return f"unclear, with status {status}", call
