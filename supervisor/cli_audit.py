# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward audit`: verify, show and report on audit logs. Each loads what it needs when it is called."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domward.protocol.errors import AuditBroken, OperationFailed, RefusedError, UsageError, printable

from . import paths, report
from .audit.place import default_log
from .outcomes import error_line
from .streams import print_error, print_raw, print_result

if TYPE_CHECKING:
    from .audit.checkpoints import Checkpoints
    from .audit.findings import Problem, Verdict

_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d(?::\d\d(?::\d\d(?:\.\d{1,6})?)?)?)?Z?", re.ASCII)
_PAGE_MODE = 0o600
_ROTATED = re.compile(r"\.[0-9a-f]{8}\.[0-9]{12}")


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `audit` and what is below it to the command line."""
    audit = commands.add_parser("audit", help="verify, show or report on audit logs", allow_abbrev=False)
    below = audit.add_subparsers(required=True, metavar="COMMAND", parser_class=type(audit))

    verify = below.add_parser("verify", help="find whatever was done to a log", allow_abbrev=False)
    verify.set_defaults(action=_verify)
    _add_files(verify)
    verify.add_argument(
        "--checkpoints", metavar="FILE", type=Path, action="append", default=[], help="checkpoints kept elsewhere"
    )
    verify.add_argument(
        "--signed", metavar="FILE", type=Path, action="append", default=[], help="checkpoints of audit sign"
    )
    verify.add_argument("--allowed-signers", metavar="FILE", type=Path, help="whose signatures of them count")
    verify.add_argument("--signer", metavar="WHO", default="auditor", help="who has to have signed (default: auditor)")
    verify.add_argument("--json", action="store_true", help="print one object for programs")

    show = below.add_parser("show", help="list records", allow_abbrev=False)
    show.set_defaults(action=_show)
    _add_files(show)
    show.add_argument("--since", metavar="TIME", type=_time, help="from this time on, UTC, as 2026-11-23T08:00")
    show.add_argument("--until", metavar="TIME", type=_time, help="up to this time, and all that begins with it")
    show.add_argument("--domain", metavar="D", help="of the domain with this name, UUID or id")
    show.add_argument("--actor", metavar="A", help="asked for by this uid, or by the program with this path")
    show.add_argument("--outcome", metavar="O", help="that came out so: ok, failed, refused, cancelled, timed-out")
    show.add_argument("--event", metavar="E", help="of this event: request, refusal, completion ...")
    show.add_argument("--operation", metavar="OP", help="of this operation")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the records as they are in the log, one a line")
    form.add_argument("--ocsf", action="store_true", help="print events of OCSF, one a line")
    form.add_argument("--cef", action="store_true", help="print lines of CEF")

    page = below.add_parser("report", help="write one HTML page for a reviewer", allow_abbrev=False)
    page.set_defaults(action=_report)
    _add_files(page)
    page.add_argument("--output", metavar="FILE", type=Path, help="write it there and not to standard output")
    page.add_argument("--since", metavar="TIME", type=_time, help="from this time on, UTC")
    page.add_argument("--until", metavar="TIME", type=_time, help="up to this time, and all that begins with it")
    page.add_argument(
        "--checkpoints", metavar="FILE", type=Path, action="append", default=[], help="checkpoints kept elsewhere"
    )

    resume = below.add_parser("resume", help="go on with a log of which records are gone", allow_abbrev=False)
    resume.set_defaults(action=_resume)
    resume.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the log (default: this host's)")

    sign = below.add_parser("sign", help="sign a checkpoint of a log", allow_abbrev=False)
    sign.set_defaults(action=_sign)
    sign.add_argument("--key", metavar="FILE", type=Path, required=True, help="the private key, of ssh-keygen")
    sign.add_argument("--output", metavar="FILE", type=Path, required=True, help="the checkpoint; and FILE.sig")
    _add_files(sign)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="the logs (default: this host's)")


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{printable(text)} is no time as 2026-11-23 or 2026-11-23T08:00:00 (UTC)")
    return text.removesuffix("Z")


def _files(options: argparse.Namespace) -> list[Path]:
    """Those named, or the default log after the files that were rotated out of it, oldest first."""
    if options.files:
        return list(options.files)
    log = paths.AUDIT_LOG if os.access(paths.AUDIT_LOG, os.R_OK) else default_log()  # an auditor is not root
    try:
        rotated = [path for path in log.parent.glob(f"{log.name}.*") if _ROTATED.fullmatch(path.name[len(log.name) :])]
    except OSError:
        rotated = []
    return [*sorted(rotated, key=lambda path: path.name.rpartition(".")[2]), log]


# --- verify -------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    from .audit.verify import verify

    checkpoints = _checkpoints(options.checkpoints)
    if options.signed:
        from .audit.signing import add_signed

        if options.allowed_signers is None:
            raise UsageError("--signed needs --allowed-signers.", advice="Without it nobody's signature counts.")
        for path in options.signed:
            add_signed(checkpoints, path, options.allowed_signers, options.signer)
    files = _files(options)
    verdict = verify(files, checkpoints)
    if not verdict.whole and _files(options) != files:  # a file was rotated meanwhile
        verdict = verify(_files(options), checkpoints)
    if options.json:
        print_result([report.to_json(_verdict_json(verdict))])
    else:
        print_result(_verdict_text(verdict))
    if verdict.whole:
        return 0
    error = AuditBroken(
        f"{verdict.count} problem{'s' if verdict.count > 1 else ''} in {len(verdict.files)} file"
        f"{'s' if len(verdict.files) > 1 else ''}.",
        advice="Keep the files as they are.",
    )
    print_error(error_line(error))
    return error.exit_code


def _checkpoints(files: list[Path]) -> Checkpoints:
    from .audit.checkpoints import Checkpoints

    found = Checkpoints()
    for path in files:
        shown = printable(str(path))
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if not found.add_lines(file):
                    raise OperationFailed(
                        f"{shown} holds no checkpoint.", advice="See 'checkpoints' in domward(1) for what may be given."
                    )
        except PermissionError:
            raise RefusedError(f"{shown} may not be read by this user.") from None
        except ValueError:
            raise UsageError("A path must not contain a NUL byte.") from None
        except OSError as error:
            raise OperationFailed(f"{shown} cannot be read: {error.strerror}.") from error
    return found


def _verdict_text(verdict: Verdict) -> Iterator[str]:
    for file in verdict.files:
        broken = len(file.problems) + file.untold
        state = "broken" if broken else "torn at its end" if file.torn else "whole"
        span = f"records {file.first.seq} to {file.last.seq}" if file.first and file.last else "no records"
        yield f"{printable(str(file.path))}: {state}, {span}, {file.boots} boot{'s' if file.boots != 1 else ''}"
        yield f"    host {file.host or 'unknown'}, chain {file.chain or 'unknown'}"
        if file.last is not None:
            yield f"    from {printable(file.begun)} to {printable(file.ended)}, last hash {file.last.hash}"
        for note in file.notes:
            yield f"    note: {printable(note)}"
        if file.untold:
            yield f"    {file.untold} further problems are not listed"
    for note in verdict.notes:
        yield f"note: {printable(note)}"
    for problem in verdict.all_problems():
        yield _problem_text(problem)
    yield f"checkpoints compared: {verdict.checkpoints}"
    yield "The log is whole." if verdict.whole else "The log is not what was written."


def _problem_text(problem: Problem) -> str:
    file = f"{printable(str(problem.file))}:{problem.line}: " if problem.file is not None else ""
    seq = f"record {problem.seq}: " if problem.seq else ""
    return f"{file}{seq}{problem.kind.value}: {printable(problem.what)}"


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "whole": verdict.whole,
        "checkpoints": verdict.checkpoints,
        "files": [
            {
                "file": printable(str(file.path)),
                "host": file.host or None,
                "chain": file.chain or None,
                "records": file.records,
                "first": file.first.seq if file.first else None,
                "last": file.last.seq if file.last else None,
                "last_hash": file.last.hash if file.last else None,
                "boots": file.boots,
                "torn": file.torn,
                "notes": file.notes,
            }
            for file in verdict.files
        ],
        "notes": verdict.notes,
        "problems": [
            {
                "kind": problem.kind.value,
                "file": None if problem.file is None else printable(str(problem.file)),
                "line": problem.line or None,
                "record": problem.seq or None,
                "what": problem.what,
            }
            for problem in verdict.all_problems()
        ],
        "problems_not_listed": sum(file.untold for file in verdict.files),
    }


# --- show ---------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    from .audit.record import Event, Outcome
    from .audit.selection import Filter

    for name, known in (("event", Event), ("outcome", Outcome)):
        value = getattr(options, name)
        if value is not None and value not in [member.value for member in known]:
            raise UsageError(
                f"There is no {name} {printable(value)}.",
                advice=f"There are {', '.join(member.value for member in known)}.",
            )
    names = ("since", "until", "domain", "actor", "outcome", "event", "operation")
    files = _files(options)
    print_result(_rows(options, files, Filter(**{name: getattr(options, name) for name in names})))
    return 0 if len(files) < 2 else _tell_broken(files)


def _rows(options: argparse.Namespace, files: list[Path], wanted: Any) -> Iterator[str]:
    from .audit import export, summary
    from .audit.selection import select

    many = len(files) > 1
    for path in files:
        for found in select(path, wanted):
            if options.json:
                yield found.line.decode("ascii")
            elif options.ocsf:
                yield export.ocsf_line(found)
            elif options.cef:
                yield export.cef_line(found)
            else:
                yield summary.row(found.record, found.origin.host or "?" if many else "")


def _tell_broken(files: list[Path]) -> int:
    """After records of several files: which host's chain is broken or missing, on standard error."""
    from .audit.verify import verify

    verdict = verify(files)
    for file in verdict.files:
        if file.problems:
            print_error(
                f"domward: host {file.host or 'unknown'}: {printable(str(file.path))} is broken, "
                f"{_problem_text(file.problems[0])}"
            )
    for problem in verdict.problems:
        print_error(f"domward: {_problem_text(problem)}")
    return 0 if verdict.whole else AuditBroken.exit_code


# --- sign ---------------------------------------------------------------------------------------------------------


def _sign(options: argparse.Namespace) -> int:
    from .audit.head import Checkpoint
    from .audit.record import rfc3339
    from .audit.signing import signed
    from .audit.verify import verify

    verdict = verify(_files(options))
    ends = [file for file in verdict.files if file.last is not None and file.chain]
    if not verdict.whole or not ends:
        print_result(_verdict_text(verdict))
        raise AuditBroken("A log that is not whole is not signed.", advice="See 'domward audit verify'.")
    if len({file.chain for file in ends}) > 1:
        raise UsageError("A checkpoint is of one chain; these files are of several.")
    last = max(ends, key=lambda file: file.last.seq if file.last else 0)
    assert last.last is not None
    checkpoint = Checkpoint(last.chain, last.last.seq, last.last.hash, rfc3339(time.time_ns()))
    signature = signed(checkpoint, options.key)
    _write(options.output.with_name(options.output.name + ".sig"), iter([signature.decode("ascii")]))
    _write(options.output, iter([checkpoint.text() + "\n"]))
    print_result([f"signed   record {checkpoint.seq} of chain {checkpoint.chain}"])
    return 0


# --- resume -------------------------------------------------------------------------------------------------------


def _resume(options: argparse.Namespace) -> int:
    from .audit.log import AuditLog
    from .audit.mirrors import Mirrors
    from .audit.record import Actor, Event

    path = default_log() if options.file is None else Path.cwd() / options.file
    if not any(os.path.lexists(path.with_name(path.name + end)) for end in ("", ".head")):
        raise OperationFailed(f"There is no audit log {printable(str(path))}.", advice="Check the path.")
    log = AuditLog(path, Actor.this_process())
    try:
        records = log.resume()
        if records:
            mirrors = Mirrors()
            mirrors.send(log, records)
            mirrors.send(log, ())
    finally:
        log.close()
    gone = [one.place.seq for one in records if one.event is Event.LOG_DAMAGED]
    print_result([f"resumed  record {gone[0]} says that others are gone" if gone else "No record is missing."])
    return 0


# --- report -------------------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> int:
    from .audit.record import rfc3339
    from .audit.report_data import gather
    from .audit.report_page import page
    from .audit.selection import Filter, select
    from .audit.verify import verify

    files = _files(options)
    wanted = Filter(since=options.since, until=options.until)
    verdict = verify(files, _checkpoints(options.checkpoints))
    found = gather(one for path in files for one in select(path, wanted))
    pieces = page(verdict, found, rfc3339(time.time_ns()))
    if options.output is None:
        print_raw(piece.encode("ascii") for piece in pieces)
    else:
        _write(options.output, pieces)
    return 0


def _write(path: Path, pieces: Iterator[str]) -> None:
    """Puts the page into `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PAGE_MODE)
        try:
            with open(number, "w", encoding="ascii") as file:
                file.writelines(pieces)
            temporary.rename(path)
        except BaseException:
            temporary.unlink()
            raise
    except PermissionError:
        raise RefusedError(f"{printable(str(path))} may not be written by this user.") from None
    except ValueError:
        raise UsageError("A path must not contain a NUL byte.") from None
    except OSError as error:
        raise OperationFailed(f"{printable(str(path))} cannot be written: {error.strerror}.") from error
