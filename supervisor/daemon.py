# SPDX-License-Identifier: GPL-3.0-or-later
"""`domwardd`: the daemon. Reads its settings, opens a supervisor, serves the control socket until it is told to stop.

Signals: SIGHUP reads the settings again, SIGTERM and SIGINT end it: no new operations, those there are end with a typed
completion each, their clients are told. Of root's privileges it keeps those that `privileges.RUNNING_PROGRAMS` names,
from before the first client on. One daemon runs for one state directory. What a daemon that was killed left behind is
cleared when the next one starts: helpers, records of operations, the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import domward
from domward.protocol.errors import DomwardError, OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import replaced

from . import paths
from .cgroups import Groups
from .config import Config
from .control.server import ControlServer
from .orphans import end_orphans
from .privileges import RUNNING_PROGRAMS, give_up
from .service import Service
from .settings import Settings, load
from .streams import fill_closed, print_error, print_result
from .supervisor import Supervisor

_LOG = logging.getLogger("domward.daemon")
_WANTED_FDS = 65_536  # some 8 an operation, and a few a client
_POSITION = "audit-"  # and a part of the hash of a log's path: the name of a stored fd
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def main(given: Sequence[str] | None = None) -> int:
    """Runs the daemon with the command line `given`, this process's by default; returns the exit code."""
    fill_closed()
    service = Service.from_environment(os.environ)
    try:
        options = _parser().parse_args(sys.argv[1:] if given is None else given)
        settings = _load(options)
        if options.check_config:
            print_result([f"read {printable(str(file))}" for file in settings.read] + ["The settings can be used."])
            return 0
        _log_to_stderr(with_priority=bool(service.address))
        give_up(RUNNING_PROGRAMS)  # before there is a thread or a client
        asyncio.run(_Daemon(options, settings, service).run())
        return 0
    except SystemExit:  # --help or --version was printed; errors are UsageErrors
        return 0
    except DomwardError as error:
        print_error(f"domwardd: {error.code}: {error}")
        return error.exit_code
    finally:
        service.close()


class _Parser(argparse.ArgumentParser):
    """argparse with errors in our form."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", advice="'domwardd --help' shows what there is.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="domwardd", description="Serves domward's control socket.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"domwardd {domward.__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=paths.SETTINGS_FILE,
        help=f"the settings (default: {paths.SETTINGS_FILE}); conf.d/*.toml beside it are read after it",
    )
    parser.add_argument("--check-config", action="store_true", help="check the settings, and end")
    return parser


def _load(options: argparse.Namespace) -> Settings:
    main: Path = options.config
    if main != paths.SETTINGS_FILE and not main.exists():
        raise UsageError(f"There is no {printable(str(main))}.", advice="Check the path that --config names.")
    return load(main, main.parent / paths.SETTINGS_FOLDER.name)


def _log_to_stderr(*, with_priority: bool) -> None:
    """Log lines go to standard error; with their priority in front, as sd-daemon(3) has it, for systemd's journal."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(with_priority=with_priority))
    logger = logging.getLogger("domward")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("asyncio").addHandler(handler)


class _Lines(logging.Formatter):
    """One line a record, of printable characters; tracebacks, of our own defects only, follow as lines of theirs."""

    def __init__(self, *, with_priority: bool) -> None:
        super().__init__("%(name)s: %(message)s")
        self._with_priority = with_priority

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        lines = super().format(record).splitlines() or [""]
        priority = f"<{_PRIORITY.get(record.levelno, 5)}>" if self._with_priority else ""
        return "\n".join(priority + printable(line) for line in lines)


@contextlib.contextmanager
def single_instance(state_directory: Path) -> Iterator[None]:
    """Holds the lock of the one daemon of `state_directory`. Raises RefusedError where another has it."""
    path = state_directory / "daemon.lock"
    try:
        state_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with Fd(os.open(path, flags, 0o600), "the daemon's lock") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    f"Another domwardd uses {printable(str(state_directory))}.", advice="Stop it, or use another."
                ) from None
            yield
    except OSError as error:
        raise OperationFailed(f"{printable(str(path))} cannot be used: {error.strerror}.") from error


class _Daemon:
    """One run of the daemon, from its settings to its end."""

    def __init__(self, options: argparse.Namespace, settings: Settings, service: Service) -> None:
        self._options = options
        self._settings = settings
        self._service = service
        self._supervisor: Supervisor | None = None
        self._server: ControlServer | None = None
        self._stop = asyncio.Event()
        self._reload_asked = asyncio.Event()

    async def run(self) -> None:
        """Serves until it is told to stop. Raises DomwardError."""
        config = self._settings.config
        with single_instance(config.state_directory):
            _raise_fd_limit()
            if (groups := Groups.delegated()) is not None:
                groups.prepare()
            for pid in end_orphans(config):
                _LOG.warning("helper %d had outlived its supervisor: ended", pid)
            if config.log_directory is not None:
                _make_parent(config.log_directory)
            with self._audit_position(config) as position:
                async with Supervisor(config, audit_position=position) as supervisor:
                    self._supervisor = supervisor
                    for uuid in await supervisor.end_orphan_guests():
                        _LOG.warning("guest %s had outlived its supervisor: destroyed", uuid)
                    await self._serve(supervisor)

    @contextlib.contextmanager
    def _audit_position(self, config: Config) -> Iterator[Fd | None]:
        """Where the audit log's last place is kept over a restart: a memfd of which systemd has a copy.

        The name says which log it is of: the settings may name another one by now.
        """
        if config.audit_log is None or not self._service.address:
            yield None
            return
        name = _POSITION + sha256(os.fsencode(config.audit_log)).hexdigest()[:16]
        stored = self._service.take(_POSITION)
        kept = stored.pop(name.removeprefix(_POSITION), None)
        for other, fd in stored.items():
            fd.close()
            self._service.forget(_POSITION + other)
        if kept is None:
            kept = _new_position()
            self._service.store(name, kept)
        with kept:
            yield kept

    async def _serve(self, supervisor: Supervisor) -> None:
        loop = asyncio.get_running_loop()
        server = self._server = ControlServer(self._settings, supervisor, self._service, self._reload)
        for number, action in (
            (signal.SIGTERM, self._stop.set),
            (signal.SIGINT, self._stop.set),
            (signal.SIGHUP, self._on_hangup),
        ):
            loop.add_signal_handler(number, action)
        beating: asyncio.Task[None] | None = None
        try:
            server.open(self._service.listener())
            self._service.close()
            self._service.ready("Serving")
            _LOG.info("domwardd %s serves", domward.__version__)
            if self._service.watchdog_seconds is not None:
                beating = asyncio.create_task(self._beat(self._service.watchdog_seconds / 2))
            await self._stop.wait()
            _LOG.info("stopping")
            self._service.stopping()
        finally:
            await server.stop()
            if beating is not None:
                beating.cancel()
                await asyncio.wait([beating])
        _LOG.info("stopped")

    async def _beat(self, seconds: float) -> None:
        while True:
            self._service.alive()
            await asyncio.sleep(seconds)

    def _on_hangup(self) -> None:
        self._service.reloading()
        try:
            assert self._server is not None
            self._server.apply(self._reload())
        except DomwardError as error:
            _LOG.error("the settings stay as they were: %s", error)
        self._service.ready("Serving")

    def _reload(self) -> Settings:
        """Reads the settings again; the supervisor uses them for operations that begin from now on."""
        assert self._supervisor is not None
        settings = _load(self._options)
        old = self._supervisor.config
        fixed = {name: getattr(old, name) for name in ("uid_base", "uid_count", "state_directory", "backend")}
        for name, value in fixed.items():
            if getattr(settings.config, name) != value:
                _LOG.warning("%s changes when the daemon is started anew", name)
        if settings.of("control", "socket") != self._settings.of("control", "socket"):
            _LOG.warning("socket changes when the daemon is started anew")
        self._supervisor.config = replaced(settings.config, **fixed)
        self._settings = settings
        _LOG.info("settings read: %s", ", ".join(printable(str(file)) for file in settings.read) or "none there")
        return settings


def _new_position() -> Fd:
    try:
        return Fd(os.memfd_create("domward-audit-position", os.MFD_CLOEXEC), "position in the audit log")
    except OSError as error:
        raise OperationFailed(f"The audit log's position cannot be kept: {error.strerror}.") from error


def _make_parent(directory: Path) -> None:
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise OperationFailed(f"{printable(str(directory.parent))} cannot be made: {error.strerror}.") from error


def _raise_fd_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FDS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FDS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
