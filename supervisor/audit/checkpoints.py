# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints that were kept elsewhere, read from whatever form they were kept in.

Each line of a file is searched: our own form (`audit.log.head`, `domward audit sign`), ``journalctl -o json`` and
``-o export`` (systemd-journal-remote's), and the kernel's audit records as ausearch(8) prints them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from .head import Checkpoint

_MOST = 65_536  # checkpoints of one chain kept in memory; of more, every second one
_KERNEL = re.compile(r"op=audit-checkpoint .*?chain=([0-9a-f]{32}) seq=([1-9][0-9]{0,18}) hash=([0-9a-f]{64})")
_EXPORTED = re.compile(r"(DOMWARD_(?:CHAIN|SEQ|HASH))=([0-9a-f]{1,64})\n?\Z")
_CHAIN, _SEQ, _HASH = "DOMWARD_CHAIN", "DOMWARD_SEQ", "DOMWARD_HASH"


class Checkpoints:
    """Of each chain, which record had which hash. Memory stays bounded: of very many, some are left out."""

    def __init__(self) -> None:
        self._hashes: dict[str, dict[int, str]] = {}
        self._last: dict[str, int] = {}
        self.conflicts: list[Checkpoint] = []

    def add(self, checkpoint: Checkpoint) -> None:
        """Keeps `checkpoint`; one that contradicts another of the same record is a conflict."""
        known = self._hashes.setdefault(checkpoint.chain, {})
        if known.setdefault(checkpoint.seq, checkpoint.hash) != checkpoint.hash:
            self.conflicts.append(checkpoint)
        self._last[checkpoint.chain] = max(self._last.get(checkpoint.chain, 0), checkpoint.seq)
        if len(known) > _MOST:
            last = self._last[checkpoint.chain]
            for seq in [seq for place, seq in enumerate(sorted(known)) if place % 2 and seq != last]:
                del known[seq]

    def add_lines(self, lines: Iterable[str]) -> int:
        """Keeps the checkpoints in `lines`, and says how many they were."""
        found = 0
        fields: dict[str, str] = {}
        for line in lines:
            checkpoint = Checkpoint.parse(line) or _of_journal(line) or _of_kernel(line)
            exported = _EXPORTED.match(line)
            if exported is not None:
                fields[exported[1]] = exported[2]
                checkpoint = _of_fields(fields)
            elif not line.strip():
                fields = {}
            if checkpoint is not None:
                fields = {}
                self.add(checkpoint)
                found += 1
        return found

    def of(self, chain: str) -> dict[int, str]:
        """record -> hash, of `chain`."""
        return self._hashes.get(chain, {})

    def chains(self) -> Iterable[str]:
        """The chains that are known of."""
        return self._hashes

    def last(self, chain: str) -> int:
        """The last record of `chain` that is known of; 0 where none is."""
        return self._last.get(chain, 0)


def _of_journal(line: str) -> Checkpoint | None:
    if '"DOMWARD_HASH"' not in line:
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return _of_fields(fields) if isinstance(fields, dict) else None


def _of_fields(fields: Mapping[str, object]) -> Checkpoint | None:
    try:
        found = f'{{"chain":"{fields[_CHAIN]}","seq":{fields[_SEQ]},"hash":"{fields[_HASH]}","time":"-"}}'
    except KeyError:
        return None
    return Checkpoint.parse(found)


def _of_kernel(line: str) -> Checkpoint | None:
    found = _KERNEL.search(line)
    return Checkpoint(found[1], int(found[2]), found[3], "") if found else None
