# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fork of the host application's leaves in the child: copies of our fds, and objects that must not use them.

Most of what a copy can do in the child stays in the child. Three things do not, and each is kept from it here:

- an epoll instance is shared: a watch that the child takes out, while its interpreter ends, is gone for the parent.
  In the child each of ours is replaced, under the same number, by an empty one.
- locks of an open file description are shared: `Birthplace.here` is asked before a lease is given back.
- a pidfd reaches the same process: `Birthplace.here` is asked before a signal is sent.
"""

from __future__ import annotations

import os
import select
import threading
import weakref
from typing import Protocol

from domward.protocol.errors import UsageError


class _Polling(Protocol):
    def fileno(self) -> int: ...


_instances: weakref.WeakSet[_Polling] = weakref.WeakSet()


def keep_from_children(owner: _Polling) -> None:
    """Gives every child that is forked from now on an epoll instance of its own under the number of `owner`'s."""
    _instances.add(owner)


def _replace_instances() -> None:
    for owner in list(_instances):
        try:
            number = owner.fileno()
        except ValueError:  # closed
            continue
        with select.epoll() as empty:
            os.dup2(empty.fileno(), number, inheritable=False)


os.register_at_fork(after_in_child=_replace_instances)


class Birthplace:
    """The process, and the thread, in which an object was made, and which alone may use it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    @property
    def here(self) -> bool:
        """Whether this still is that process, and not a child of it that was forked."""
        return os.getpid() == self._pid

    def require(self, what: str) -> None:
        """Raises UsageError in a forked child; `what` begins the sentence."""
        if not self.here:
            raise UsageError(
                f"{what} belongs to process {self._pid}, of which this is a forked child.",
                advice="Use it in that process, or make one here.",
            )

    def require_thread(self, what: str) -> None:
        """As `require`, and also raises UsageError in another thread."""
        self.require(what)
        if threading.get_ident() != self._thread:
            raise UsageError(
                f"{what} belongs to another thread.", advice="ThreadedSupervisor can be called from any thread."
            )
