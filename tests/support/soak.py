# SPDX-License-Identifier: GPL-3.0-or-later
"""Thousands of operations of every outcome in one supervisor, and what the process and its launcher have meanwhile.

The mix is the same in every run (a seeded generator): results of the three kinds of operation, bad disks, cancels by
the caller and by another, helpers that are killed, and time-outs, each at a random moment of the operation's life.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domward.supervisor import Config, Supervisor
from support.crash_cells import children
from support.crash_points import VARIANTS, Life, watched

AT_ONCE = 4
WINDOWS = 100
SETTLED = 0.1  # of the run: caches are full, threads and arenas made
RSS_TOLERANCE = 2 * 1024 * 1024  # bytes between the medians of the first and the last third of what follows
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOMENTS = ["step disk", "disk open", "bootloader made", "bootloader sent confined", "bootloader idle", "step image"]
_TIMEOUT_SECONDS = 0.004  # within which no operation ends: a helper's confinement takes as long


@dataclass(frozen=True)
class Sample:
    """What there is when `done` operations have ended and none runs."""

    done: int
    seconds: float
    fds: int
    children: int
    threads: int
    rss: int
    launcher_rss: int


@dataclass(frozen=True)
class Soak:
    samples: tuple[Sample, ...]
    endings: Counter[str]

    @property
    def settled(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.done >= SETTLED * self.samples[-1].done)

    def growth(self, of: Callable[[Sample], int]) -> float:
        """Bytes by which the median of the last third is above that of the first, of what followed the start."""
        values = [of(sample) for sample in self.settled]
        third = len(values) // 3
        return statistics.median(values[-third:]) - statistics.median(values[:third])

    def report(self) -> str:
        last = self.samples[-1]
        growths = [f"{self.growth(of) / 1024:+.0f} KiB" for of in (lambda s: s.rss, lambda s: s.launcher_rss)]
        endings = ", ".join(f"{count} {name}" for name, count in self.endings.most_common())
        return (
            f"{last.done} operations in {last.seconds:.0f} s: {endings}\n"
            f"RSS: supervisor {last.rss / 2**20:.1f} MiB ({growths[0]}), "
            f"launcher {last.launcher_rss / 2**20:.1f} MiB ({growths[1]}); "
            f"{last.fds} fds, {last.children} children, {last.threads} threads"
        )


async def soak(count: int, config: Config, folder: Path) -> Soak:
    """Runs `count` operations on the disks `good` and `bad` of `folder`."""
    dice = random.Random(count)
    endings: Counter[str] = Counter()
    samples = []
    begin = time.monotonic()
    with watched():
        async with Supervisor(config) as supervisor:
            await all_hashing_threads(supervisor)
            windows = min(WINDOWS, count)
            edges = [count * place // windows for place in range(windows + 1)]
            for start, end in itertools.pairwise(edges):
                todo = iter(range(start, end))
                await asyncio.gather(*(_work(supervisor, todo, dice, endings, folder) for _ in range(AT_ONCE)))
                samples.append(_sample(supervisor, end, time.monotonic() - begin))
    return Soak(tuple(samples), endings)


async def all_hashing_threads(supervisor: Supervisor) -> None:
    """They are made one by one when there is work for them, whenever that is the case for the first time."""
    executor = supervisor._hashing
    assert executor is not None
    meeting = threading.Barrier(executor._max_workers)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(executor, meeting.wait) for _ in range(meeting.parties)))


async def _work(supervisor: Supervisor, todo: Any, dice: random.Random, endings: Counter[str], folder: Path) -> None:
    for _ in todo:
        endings[await _one(supervisor, dice, folder)] += 1


async def _one(supervisor: Supervisor, dice: random.Random, folder: Path) -> str:
    what = dice.choices(
        ["boot", "inspect", "menu", "boot-of-a-bad-disk", "caller", "cancel", "kill", "time-out"],
        [30, 15, 10, 10, 10, 10, 10, 5],
    )[0]
    moment = dice.choice(_MOMENTS)
    life = Life()
    if what == "caller":
        life = Life(moment, _cancel_caller)
    elif what == "cancel":
        life = Life(moment, lambda now: now.operation.cancel())
    elif what == "kill":
        life = Life(_MOMENTS[-1], _kill)
    variant = VARIANTS[what if what in VARIANTS else dice.choice(["boot", "inspect"])]
    with variant.operation(supervisor, folder) as operation:
        if what == "time-out":
            operation._seconds = _TIMEOUT_SECONDS
        caller = asyncio.create_task(life.live(operation))
        await asyncio.wait([caller])
        if not caller.cancelled():
            caller.exception()
        (ending,) = await asyncio.gather(operation.wait(), return_exceptions=True)
    if not caller.cancelled() and hasattr(ending, "close"):
        ending.close()
    return type(ending).__name__


def _cancel_caller(life: Life) -> None:
    life.caller.cancel()


def _kill(life: Life) -> None:
    for helper in life.helpers.values():
        helper.child.send_signal(signal.SIGKILL)


def _sample(supervisor: Supervisor, done: int, seconds: float) -> Sample:
    gc.collect()
    assert supervisor._launcher is not None
    assert supervisor._launcher.child is not None
    return Sample(
        done=done,
        seconds=seconds,
        fds=len(os.listdir("/proc/self/fd")),
        children=len(children()),
        threads=len(os.listdir("/proc/self/task")),
        rss=_rss("self"),
        launcher_rss=_rss(str(supervisor._launcher.child.pid)),
    )


def _rss(pid: str) -> int:
    return int(Path("/proc", pid, "statm").read_text().split()[1]) * _PAGE


def check(found: Soak) -> None:
    """Fails where anything grew from the tenth part of the run on."""
    settled = found.settled
    for name in ("fds", "children", "threads"):
        assert len({getattr(sample, name) for sample in settled}) == 1, (name, settled)
    assert found.growth(lambda sample: sample.rss) <= RSS_TOLERANCE, found.report()
    assert found.growth(lambda sample: sample.launcher_rss) <= RSS_TOLERANCE, found.report()
    assert len(found.endings) >= 6, found.endings


def curve(found: Soak, title: str) -> str:
    """The samples as an SVG picture of two panels: memory above, counts below."""
    memory = {
        "supervisor, MiB": ("#1f6fb4", [sample.rss / 2**20 for sample in found.samples]),
        "launcher, MiB": ("#c8641e", [sample.launcher_rss / 2**20 for sample in found.samples]),
    }
    counts = {
        "fds": ("#1f6fb4", [float(sample.fds) for sample in found.samples]),
        "threads": ("#2d8a4e", [float(sample.threads) for sample in found.samples]),
        "children": ("#c8641e", [float(sample.children) for sample in found.samples]),
    }
    done = [sample.done for sample in found.samples]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 500" font-family="sans-serif" font-size="12">\n'
        '<rect width="760" height="500" fill="white"/>\n'
        f'<text x="60" y="24" font-size="15">{title}</text>\n'
        + _panel(50, 220, "resident memory when nothing runs", done, memory)
        + _panel(320, 130, "open fds, threads and children when nothing runs", done, counts)
        + '<text x="380" y="490" text-anchor="middle">operations ended</text>\n</svg>\n'
    )


def _panel(
    top: float, height: float, title: str, done: Sequence[int], lines: dict[str, tuple[str, list[float]]]
) -> str:
    left, width = 60.0, 560.0
    highest = max(max(values) for _colour, values in lines.values()) * 1.1
    parts = [f'<text x="{left:.0f}" y="{top - 6:.0f}" fill="#555">{title}</text>']
    for step in range(5):
        value, y = highest * step / 4, top + height - height * step / 4
        parts.append(f'<line x1="{left:.0f}" x2="{left + width:.0f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for step in range(5):
        x = left + width * step / 4
        parts.append(
            f'<text x="{x:.0f}" y="{top + height + 16:.0f}" text-anchor="middle">{done[-1] * step // 4}</text>'
        )
    for name, (colour, values) in lines.items():
        points = " ".join(
            f"{left + width * count / done[-1]:.1f},{top + height - height * value / highest:.1f}"
            for count, value in zip(done, values, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = top + height - height * values[-1] / highest
        parts.append(f'<text x="{left + width + 8:.0f}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join(parts) + "\n"
