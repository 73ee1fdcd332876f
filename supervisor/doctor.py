# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out which layers of confinement this host really has, by confining one helper of each kind and looking."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping

from domward.protocol.channel import Channel
from domward.protocol.errors import ConfinementUnavailable, DomwardError, OperationFailed
from domward.protocol.layers import LOST_WITHOUT, Layer
from domward.protocol.messages import HelperKind
from domward.protocol.privileges import LAUNCHER_KEEPS, Capability, capability_bits, capability_names
from domward.protocol.records import field, frozen, replaced

from . import kernel, privileges, user_namespace
from .cgroups import Groups, has_kill
from .children import pidfds_tell
from .config import Config
from .helper import Helper
from .launcher_process import LauncherProcess
from .sinks import memfds_can_be_sealed_from_execution
from .supervisor import Supervisor
from .verification import UNSEEN, Privileges, Verified


@frozen
class LayerReport:
    """One layer.

    `state` is "verified" (the kernel showed it), "tried" (each helper tries it or reads it back), "missing", or
    "unknown" where no helper could be started to look at; `lost` says what is lost without it.
    """

    layer: Layer
    state: str
    needed: bool
    lost: str


@frozen
class FeatureReport:
    """A kernel feature that has a fall-back: `present`, and what is done without it."""

    name: str
    present: bool
    without: str


@frozen
class ProcessReport:
    """One of the privileged processes, "supervisor" or "launcher", as /proc shows it.

    `state` is "cut" where it has given up all that it does not need, "whole" where it has not (a supervisor inside
    somebody's program, whose privileges are that program's), and "unknown" where it could not be looked at.
    `capabilities` are those in any of its sets; `refused` says whether calls that it never needs are refused to it.
    """

    name: str
    state: str
    capabilities: tuple[str, ...]
    no_new_privs: bool
    refused: bool


@frozen
class Diagnosis:
    """What `domward doctor` says. `problem` is the error that kept helpers from starting, if any did."""

    kernel: str
    machine: str
    layers: tuple[LayerReport, ...]
    processes: tuple[ProcessReport, ...]
    features: tuple[FeatureReport, ...]
    helpers: tuple[str, ...]
    problem: DomwardError | None
    config: Config = field(default_factory=Config)

    @property
    def error(self) -> DomwardError | None:
        """Why operations do not run here with the given configuration; None where they do."""
        missing = [report.layer.value for report in self.layers if report.needed and report.state == "missing"]
        if self.problem is not None or not missing:
            return self.problem
        return ConfinementUnavailable(f"This host lacks {', '.join(missing)}.")

    @property
    def usable(self) -> bool:
        """Whether operations run here with the given configuration."""
        return self.error is None


async def diagnose(
    config: Config, process: LauncherProcess | None = None, problem: DomwardError | None = None
) -> Diagnosis:
    """Tries everything. Never raises for what the host lacks; that is what it reports.

    Where a `problem` is known beforehand that keeps helpers from starting, none is tried.
    """
    verified: list[Verified] = []
    probing = replaced(config, optional_layers=frozenset(Layer))
    landlock_abi = 0
    launcher: Privileges | None = None
    try:
        if problem is not None:
            raise problem
        async with Supervisor(probing, process) as supervisor:
            host = await supervisor.host()
            launcher = host.launcher.privileges
            landlock_abi = (await host.launcher.ready()).landlock_abi
            # A program's disk takes device nodes, which nobody makes in a user namespace of an ordinary user.
            kinds = [kind for kind in HelperKind if kind is not HelperKind.PROGRAM or not user_namespace.entered()]
            for kind in kinds:
                helper = Helper(kind, "doctor", host)
                try:
                    await helper.start()
                    assert helper.verified is not None
                    verified.append(helper.verified)
                finally:
                    await asyncio.shield(helper.close())
    except DomwardError as error:
        problem = error
    system = os.uname()
    return Diagnosis(
        kernel=system.release,
        machine=system.machine,
        layers=tuple(_layer(layer, verified, config) for layer in Layer),
        processes=(
            _process("supervisor", Privileges.of(os.getpid()), privileges.RUNNING_PROGRAMS),
            _process("launcher", launcher, LAUNCHER_KEEPS),
        ),
        features=_features(landlock_abi, await _groups(config)),
        helpers=tuple(kind.value for kind in list(HelperKind)[: len(verified)]),
        problem=problem,
        config=config,
    )


def _layer(layer: Layer, verified: list[Verified], config: Config) -> LayerReport:
    if not verified:
        state = "unknown"
    elif not all(layer in one.layers for one in verified):
        state = "missing"
    else:
        state = "tried" if layer in UNSEEN else "verified"
    return LayerReport(layer, state, layer not in config.optional_layers, LOST_WITHOUT[layer])


def _process(name: str, seen: Privileges | None, keeps: Mapping[Capability, str]) -> ProcessReport:
    if seen is None:
        return ProcessReport(name, "unknown", (), no_new_privs=False, refused=False)
    # The launcher has tried it as it started, or there would be none.
    refused = seen.filters > 0 and (name == "launcher" or not kernel.refused_call_passes())
    cut = not seen.most & ~capability_bits(keeps) and seen.no_new_privs and refused
    return ProcessReport(
        name, "cut" if cut else "whole", capability_names(seen.most), no_new_privs=seen.no_new_privs, refused=refused
    )


async def _groups(config: Config) -> Groups | None:
    """Where operations have control groups, tried."""
    groups = Groups.delegated()
    if groups is not None:
        try:
            await groups.new(f"doctor-{os.getpid()}", config.budgets).close()
        except OperationFailed:
            return None
    return groups


def _features(landlock_abi: int, groups: Groups | None) -> tuple[FeatureReport, ...]:
    return (
        FeatureReport(
            "landlock-abi-6",
            landlock_abi >= 6,
            f"ABI {landlock_abi} is used: signals and abstract sockets are kept out by namespaces and seccomp alone",
        ),
        FeatureReport(
            "so-passpidfd",
            _passes_pidfd(),
            "a helper is identified by the launcher's word and SO_PASSCRED, while its pidfd is held",
        ),
        FeatureReport(
            "pidfd-exit-info",
            _release() >= (6, 15) and pidfds_tell(),
            "the status of a child that the host application reaped stays unknown",
        ),
        FeatureReport(
            "memfd-noexec-seal",
            memfds_can_be_sealed_from_execution(),
            "results are sealed, but could be made executable",
        ),
        FeatureReport("mount-setattr", kernel.has_mount_setattr(), "bootloader programs cannot be run"),
        FeatureReport("close-range", kernel.has_close_range(), "no launcher starts, and nothing is confined"),
        FeatureReport(
            "user-namespaces", user_namespace.allowed(), "an ordinary user cannot confine helpers, only root can"
        ),
        FeatureReport(
            "cgroup-v2-delegated",
            groups is not None,
            "helpers are bounded and ended one by one: their resource limits and pidfds hold in any case",
        ),
        FeatureReport(
            "cgroup-limits",
            groups is not None and len(groups.bounds) > 1,
            "memory and processes are bounded for each process of an operation, not for all of them together",
        ),
        FeatureReport(
            "cgroup-kill",
            has_kill(),
            "an operation's group is not killed as one; pid namespaces end what helpers started",
        ),
    )


def _passes_pidfd() -> bool:
    near, far = Channel.pair("probe", identify=True)
    far.close()
    with near:
        return near.passes_pidfd


def _release() -> tuple[int, int]:
    """The kernel's version as (major, minor); what follows may be anything, as in "6.1+" or "6.18-rc1"."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
