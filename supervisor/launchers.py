# SPDX-License-Identifier: GPL-3.0-or-later
"""One launcher at a time: a dead one is replaced when the next operation asks, until too many have died.

States: running -> given up. Operations that a death meets end with HelperDied or with their own result, since a helper
outlives the launcher that made it. limits.LAUNCHER_DEATHS deaths within limits.LAUNCHER_DEATH_SECONDS are given up on:
every later request raises OperationFailed with the code "launcher-gave-up", until the supervisor is opened anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.messages import LauncherReady

from .config import Config
from .events import Events
from .launcher import Launcher
from .launcher_process import LauncherProcess

_LOG = logging.getLogger("domward.launcher")


class DeathCount:
    """The latest deaths: `note` each with its time in seconds, of a clock that never goes back."""

    def __init__(self, most: int = limits.LAUNCHER_DEATHS, within: float = limits.LAUNCHER_DEATH_SECONDS) -> None:
        self._most = most
        self._within = within
        self._times: deque[float] = deque(maxlen=most)

    def note(self, now: float) -> bool:
        """Whether this death is the one too many: `most` of them in less than `within` seconds."""
        self._times.append(now)
        return len(self._times) == self._most and now - self._times[0] < self._within


class Launchers:
    """The launchers of one supervisor, one after another. `process` is the first one, where it was started before."""

    def __init__(self, config: Config, events: Events, process: LauncherProcess | None) -> None:
        self._config = config
        self._events = events
        self._process = process
        self._deaths = DeathCount()
        self.current: Launcher | None = None
        self._starting = asyncio.Lock()
        self.gave_up = False

    async def live(self) -> tuple[Launcher, LauncherReady]:
        """A launcher that is ready, and what it said then. Raises as `Launcher.start`, or OperationFailed."""
        async with self._starting:
            if self.current is not None and not self.current.alive:
                await self._bury(self.current)
            if self.gave_up:
                raise OperationFailed(
                    f"The launcher died {limits.LAUNCHER_DEATHS} times within {limits.LAUNCHER_DEATH_SECONDS:g} "
                    "seconds, and no other is started.",
                    code="launcher-gave-up",
                    advice="See the log for how it ended, and then start anew.",
                )
            if self.current is not None:
                return self.current, await self.current.ready()
            self.current = Launcher(self._config, self._events)
            process, self._process = self._process, None
            return self.current, await self.current.start(process)

    async def _bury(self, launcher: Launcher) -> None:
        await launcher.close()
        self.current = None
        child = launcher.child
        _LOG.error("The %s.", f"{child.name} {child.describe_death()}" if child else "launcher could not be started")
        self.gave_up = self._deaths.note(asyncio.get_running_loop().time()) or self.gave_up

    async def close(self) -> None:
        """Ends the launcher and waits for its death. Idempotent."""
        if self.current is not None:
            await self.current.close()
