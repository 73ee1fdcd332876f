# SPDX-License-Identifier: GPL-3.0-or-later
"""One audit log on a disk: appends records to its chain, and notices whatever else was done to the file.

States: closed -> open -> closed or broken. The first `append` opens; by cases, under the lock of all writers:

- the file grew: other writers' records, after which this one goes on; ours must still be where it was
- the file was rotated by another writer: this one goes on in the new file
- the file is gone, another one, shorter, or does not end as it did: broken
- writing fails (disk full): AuditUnavailable, and the next `append` opens it anew and tells what was left half-written
- the disk does not confirm (fdatasync): broken, because nobody knows what it then holds

A broken log refuses every record until its supervisor is opened anew. What a crash left unfinished stays in the file as
a line of its own, and a `log-recovered` record says so. Where the head file (see `head`), or what a daemon before this
one has left, knows of a record that the log has not, the log is not gone on with, until somebody says so: `resume`
puts a `log-damaged` record there.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import stat
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import domward
from domward.protocol import limits
from domward.protocol.errors import AuditUnavailable, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen, replaced

from .. import user_namespace
from .head import Checkpoint, HeadFile
from .lock import LogLock
from .record import NO_HASH, Actor, Detail, Entry, Event, Outcome, Place, boot_id, machine_id, make_entry, rfc3339
from .tail import Tail, chain_of, closed, ends_with, read_tail

AUDIT_GROUP = "domward-audit"  # who may read the log beside its owner, where the group exists
STEP_BACK = 2_000_000_000  # nanoseconds: less than this is no step of the clock but the order of several writers

_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_RESUME = "Keep what is there for a look; 'domward audit resume' then goes on, and records that."
_LET_GO = "Keep what is there for a look; 'systemctl stop domwardd' then lets go of the position that tells it."
_REPLACED = "Keep what is there for a look, and start anew."


@frozen
class Written:
    """A record that is on the disk, as a mirror sends it on."""

    event: Event
    line: bytes
    place: Place


class AuditLog:
    """The log at `path`. Not thread-safe: one thread uses it. `alone` is a daemon's: no other daemon may have it.

    `position` is a file of the caller's, in which the chain's last place is written after each write as well.
    """

    def __init__(
        self,
        path: Path,
        actor: Actor,
        *,
        alone: bool = False,
        file_bytes: int = limits.AUDIT_FILE_BYTES,
        position: Fd | None = None,
    ) -> None:
        self.path = path
        self.chain = ""
        self._actor = actor
        self._alone = alone
        self._file_bytes = file_bytes
        self._position = None if position is None else HeadFile(position)
        self._resumes = False
        self._boot = boot_id()
        self._folder: Fd | None = None
        self._lock: LogLock | None = None
        self._head: HeadFile | None = None
        self._file: Fd | None = None
        self._tail = Tail(Place(0, NO_HASH, NO_HASH), 0, 0, "", 0, b"")
        self._broken: AuditUnavailable | None = None
        self._pending: list[Written] = []

    @property
    def checkpoint(self) -> Checkpoint:
        """The last record that is on the disk."""
        return Checkpoint(self.chain, self._tail.place.seq, self._tail.place.hash, rfc3339(time.time_ns()))

    def append(self, entries: Sequence[Entry]) -> list[Written]:
        """Puts `entries` on the disk and returns them, with records of the log's own among them.

        Raises AuditUnavailable; then none of them counts as written.
        """
        if self._broken is not None:
            raise self._error(self._broken.sentence, self._broken.advice)

        def write() -> None:
            if self._tail.size >= self._file_bytes:
                self._rotate()
            self._write([piece for entry in entries for piece in self._with_clock(entry)])

        return self._locked(write)

    def resume(self) -> list[Written]:
        """Goes on although records are gone, which the log then tells. Returns the records; none where all is there.

        Raises AuditUnavailable.
        """
        self._resumes = True
        return self._locked(lambda: None)

    def _locked(self, work: Callable[[], None]) -> list[Written]:
        """Does `work` on the log as it is now, under the lock; returns what was written."""
        try:
            self._pending = []
            with self._open_lock().held():
                self._prepare()
                work()
                return self._pending
        except OSError as error:
            self._close_file()
            raise self._unavailable(error) from error
        except AuditUnavailable:
            self._close_file()
            raise

    def close(self) -> None:
        """Closes all fds. Idempotent."""
        self._close_file()
        if self._head is not None:
            self._head.close()
        if self._lock is not None:
            self._lock.close()
        if self._folder is not None:
            self._folder.close()
        self._head = self._lock = self._folder = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- opening ------------------------------------------------------------------------------------------------

    def _open_lock(self) -> LogLock:
        if self._lock is None:
            if self._folder is None:
                self._folder = self._open_folder()
            self._lock = LogLock(self._folder, self.path.name, alone=self._alone)
        return self._lock

    def _open_folder(self) -> Fd:
        made = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path.parent, _FOLDER_MODE)
            made = True
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = Fd(os.open(self.path.parent, flags), "audit folder")
        if made:
            _let_auditors(folder, _FOLDER_MODE)
        found = os.fstat(folder.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            folder.close()
            raise self._error(
                f"The folder of the audit log {self._shown} can be written by others.",
                "Give it to the user of this process, with mode 0750 or less.",
            )
        return folder

    def _prepare(self) -> None:
        """Makes sure that the log is open and is what it was. Raises AuditUnavailable, OSError."""
        if self._file is None:
            self._open()
            return
        there, held = self._stat_path(), os.fstat(self._file.fileno())
        if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            self._follow_rotation("was deleted" if there is None else "was replaced by another file")
        elif held.st_nlink != 1:
            self._break("was given another name while it was in use")
        elif held.st_size < self._tail.size:
            self._break("was cut short while it was in use")
        elif not ends_with(self._file, self._tail.size, self._tail.place):
            self._break("was changed while it was in use")
        elif held.st_size > self._tail.size:
            self._go_on_after(self._tail_of(self._file))

    def _stat_path(self) -> os.stat_result | None:
        assert self._folder is not None
        try:
            return os.stat(self.path.name, dir_fd=self._folder.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _open(self) -> None:
        assert self._folder is not None
        if self._head is None:
            self._head = HeadFile(self._open_file(f"{self.path.name}.head", 0))
        known = self._head.read()
        new = self._stat_path() is None
        lost = self._lost(known, None) if new else None  # looked at first: what is refused leaves no new file
        self._file = self._open_file(self.path.name, os.O_APPEND)
        if new:
            os.fsync(self._folder.fileno())
        tail = self._tail_of(self._file)
        found = None
        if tail.place.seq == 0:
            lost = lost or self._lost(known, None)
            self._tail = tail
            self._begin(known or lost)
        else:
            self.chain = chain_of(self._file)
            if not self.chain:
                self._broken = self._error(f"The audit log {self._shown} has no beginning.", _REPLACED)
                raise self._broken
            found = {"seq": tail.place.seq, "hash": tail.place.hash}
            lost = self._lost(known, Checkpoint(self.chain, tail.place.seq, tail.place.hash, ""))
            self._go_on_after(tail)
        if lost is not None:
            self._note(Event.LOG_DAMAGED, Outcome.FAILED, {"expected": _named(lost), "found": found})

    def _lost(self, head: Checkpoint | None, end: Checkpoint | None) -> Checkpoint | None:
        """What is known to have been written and is not in a log that ends with `end` (None: a log that begins).

        Raises AuditUnavailable for it, but where the log is to be gone on with.
        """
        if end is None and head is not None and self._rotated_at(head) is not None:
            end = head
        kept = self._position.read() if self._position is not None else None
        for known, advice in ((head, _RESUME), (kept, _LET_GO)):
            if known is not None and (end is None or not _holds(known, end)):
                if self._resumes:
                    return known
                now = "it is gone" if end is None else f"it ends with record {end.seq} of chain {end.chain}"
                raise self._error(
                    f"The audit log {self._shown} ended with record {known.seq} of chain {known.chain}, and now {now}.",
                    advice,
                )
        return None

    def _open_file(self, name: str, how: int) -> Fd:
        """Opens `name` in the folder, or makes it with its mode and group. Raises AuditUnavailable, OSError."""
        assert self._folder is not None
        flags = os.O_RDWR | how | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            file = Fd(os.open(name, flags, dir_fd=self._folder.fileno()), "audit log")
        except FileNotFoundError:
            made = os.open(name, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=self._folder.fileno())
            file = Fd(made, "audit log")
            _let_auditors(file, _FILE_MODE)
        found = os.fstat(file.fileno())
        others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or others or found.st_nlink != 1:
            file.close()
            raise self._error(
                f"{printable(name)} is no file that only this user can write.", "Move it away, or name another log."
            )
        return file

    def _tail_of(self, file: Fd) -> Tail:
        """The end of `file`. Raises AuditUnavailable where it is none of domward's."""
        tail = read_tail(file, os.fstat(file.fileno()).st_size)
        if tail is None:
            self._broken = self._error(
                f"The audit log {self._shown} does not end with a record of domward's.",
                "Move it away as evidence ('domward audit verify' says more), and start anew.",
            )
            raise self._broken
        return tail

    def _go_on_after(self, tail: Tail) -> None:
        """Takes `tail` for ours, ends its last record, and tells of what a crash left there."""
        self._tail = tail
        if not tail.ended:
            self._raw(b"\n")
            self._tail = replaced(tail, size=tail.size + 1, ended=True)
        elif tail.torn and tail.place.seq:
            self._recover(tail)

    def _recover(self, tail: Tail) -> None:
        self._close_torn(tail)
        self._note(Event.LOG_RECOVERED, Outcome.OK, _torn(tail))

    def _close_torn(self, tail: Tail) -> None:
        if not tail.torn.endswith(b"\n"):
            self._raw(b"\n")
            self._tail = replaced(tail, size=tail.size + 1)

    def _begin(self, known: Checkpoint | None) -> None:
        """Writes the first record of a file: of a new chain, or of one that goes on after `known`."""
        before = self._tail
        if before.torn:
            self._close_torn(before)
        self.chain = known.chain if known else os.urandom(16).hex()
        place = Place(known.seq, NO_HASH, known.hash) if known else Place(0, NO_HASH, NO_HASH)
        self._tail = replaced(self._tail, place=place, torn=b"")
        self._note(Event.LOG_OPENED, Outcome.OK, self._opening(known))
        if before.torn:
            self._note(Event.LOG_RECOVERED, Outcome.OK, _torn(before))

    def _opening(self, known: Checkpoint | None) -> Detail:
        return {
            "format": 1,
            "chain": self.chain,
            "host": os.uname().nodename,
            "machine": machine_id(),
            "domward": domward.__version__,
            "former": None if known is None else _named(known),
        }

    # --- rotation -----------------------------------------------------------------------------------------------

    def _rotate(self) -> None:
        """Gives the file its last record and another name, and begins the next one, which names that record."""
        assert self._folder is not None
        assert self._file is not None
        name = self._rotated_name(self.chain, self._tail.place.seq + 1)
        self._note(Event.LOG_ROTATED, Outcome.OK, {"name": name})
        known = self.checkpoint
        folder = self._folder.fileno()
        os.rename(self.path.name, name, src_dir_fd=folder, dst_dir_fd=folder)
        self._file.close()
        self._file = self._open_file(self.path.name, os.O_APPEND)
        os.fsync(folder)
        self._tail = replaced(self._tail, size=0)
        self._begin(known)

    def _rotated_name(self, chain: str, last: int) -> str:
        return f"{self.path.name}.{chain[:8]}.{last:012d}"

    def _rotated_at(self, known: Checkpoint) -> os.stat_result | None:
        """The file that a rotation ended with `known`; None where there is none."""
        assert self._folder is not None
        try:
            return os.stat(self._rotated_name(known.chain, known.seq), dir_fd=self._folder.fileno())
        except FileNotFoundError:
            return None

    def _follow_rotation(self, otherwise: str) -> None:
        """Goes on where another writer rotated, or was killed as it did. Else the log is broken; `otherwise` says why.

        Whoever rotates gives the file its last record and the name that goes with it; any other change is no rotation.
        """
        assert self._file is not None
        former, self._file = self._file, None
        with former:
            held = os.fstat(former.fileno())
            end = read_tail(former, held.st_size)
        chain, before = self.chain, self._tail.place.seq
        if end is not None and end.place.seq >= before:
            there = self._rotated_at(Checkpoint(chain, end.place.seq, end.place.hash, ""))
            if there is not None and (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                self._open()
                if self.chain == chain and self._tail.place.seq > end.place.seq:
                    return
        self._break(f"{otherwise} while it was in use")

    # --- writing ------------------------------------------------------------------------------------------------

    def _with_clock(self, entry: Entry) -> list[Entry]:
        """`entry`, after one that says so where the clock went back since the last record."""
        last, boot = self._tail, self._boot
        found = []
        monotonic = entry.monotonic - last.monotonic if last.boot == boot else 0
        if last.wall and entry.wall - last.wall - monotonic < -STEP_BACK:
            detail: Detail = {"from": rfc3339(last.wall), "to": rfc3339(entry.wall)}
            found.append(self._own(Event.CLOCK_STEPPED_BACK, Outcome.OK, detail))
        self._tail = replaced(last, wall=entry.wall, monotonic=entry.monotonic, boot=boot)
        return [*found, entry]

    def _own(self, event: Event, outcome: Outcome, detail: Detail) -> Entry:
        return make_entry(event, boot=self._boot, actor=self._actor, outcome=outcome, detail=detail)

    def _note(self, event: Event, outcome: Outcome, detail: Detail) -> None:
        self._write([self._own(event, outcome, detail)])

    def _write(self, entries: list[Entry]) -> None:
        """Appends, has the disk confirm it, and moves the head."""
        place, size = self._tail.place, self._tail.size
        lines: list[Written] = []
        for entry in entries:
            line, digest = entry.line(place.seq + 1, place.hash)
            place = Place(place.seq + 1, place.hash, digest)
            size += len(line)
            lines.append(Written(entry.event, line, place))
        self._raw(b"".join(one.line for one in lines))
        last = entries[-1]
        self._tail = Tail(place, last.wall, last.monotonic, self._boot, size, b"")
        self._pending += lines
        assert self._head is not None
        self._head.write(self.checkpoint)
        if self._position is not None:
            self._position.write(self.checkpoint)

    def _raw(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._broken = self._unavailable(error)
            raise self._broken from error

    # --- errors -------------------------------------------------------------------------------------------------

    @property
    def _shown(self) -> str:
        return printable(str(self.path))

    def _break(self, what: str) -> None:
        self._broken = self._error(f"The audit log {self._shown} {what}.", _REPLACED)
        raise self._broken

    def _unavailable(self, error: OSError) -> AuditUnavailable:
        symbol = errno.errorcode.get(error.errno or 0, "unknown")
        return self._error(
            f"The audit log {self._shown} cannot be written: {error.strerror} ({symbol}).",
            "Without a record nothing is done: make room or give it a disk that works, or name another log.",
        )

    def _error(self, sentence: str, advice: str) -> AuditUnavailable:
        return AuditUnavailable(sentence, advice=advice)


def _let_auditors(new: Fd, mode: int) -> None:
    """Gives a `new` file or folder of root's to the group of the auditors; without one it is its owner's alone."""
    if user_namespace.caller()[0] == 0:
        with contextlib.suppress(KeyError):
            os.fchown(new.fileno(), 0, grp.getgrnam(AUDIT_GROUP).gr_gid)
    os.fchmod(new.fileno(), mode)


def _holds(known: Checkpoint, end: Checkpoint) -> bool:
    """Whether a log that ends with `end` can have had `known`, which may be behind where a writer was killed."""
    if known.chain != end.chain or known.seq > end.seq:
        return False
    return known.seq < end.seq or known.hash == end.hash


def _named(checkpoint: Checkpoint) -> Detail:
    return {"seq": checkpoint.seq, "hash": checkpoint.hash}


def _torn(tail: Tail) -> Detail:
    lines = closed(tail.torn)
    return {"offset": tail.size - len(tail.torn), "bytes": len(lines), "sha256": sha256(lines).hexdigest()}
