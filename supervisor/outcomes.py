# SPDX-License-Identifier: GPL-3.0-or-later
"""How each of our programs ends: with its exit code, or with one error as a sentence, and never with a traceback."""

from __future__ import annotations

from collections.abc import Callable

from domward.protocol.errors import DomwardError, OperationCancelled, OperationFailed

from . import interrupts


def error_line(error: DomwardError) -> str:
    """The line on standard error of a program that failed."""
    return f"domward: {error.code}: {error}"


def outcome(work: Callable[[], int], fail: Callable[[DomwardError], int]) -> int:
    """The exit code of `work`, or that of `fail` with the error that it ended with. A signal is a wish to stop."""
    try:
        with interrupts.as_keyboard_interrupt():
            return work()
    except KeyboardInterrupt:
        return fail(OperationCancelled("Interrupted."))
    except DomwardError as error:
        return fail(error)
    except MemoryError:
        return fail(OperationFailed("domward ran out of memory.", code="out-of-memory"))
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a sentence, never a traceback
        return fail(OperationFailed(f"domward has a defect: {type(error).__name__}: {error}."))
