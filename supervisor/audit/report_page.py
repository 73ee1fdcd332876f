# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one HTML page that needs nothing else: no network, no other file, and no script to be read.

Every value is made printable and then escaped, whatever a guest or a forger put into a log. The page's own policy
(Content-Security-Policy) permits its one style sheet and its one script by their hashes, and nothing else at all.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import domward
from domward.protocol.text import printable

from .findings import FileReport, Verdict
from .record import Event
from .report_data import OUTCOMES, Gathered, OperationSeen, buckets, worst_first
from .summary import named, what

_LISTED_PROBLEMS = 200
_HERE = Path(__file__).parent


def text(value: object) -> str:
    """`value` for HTML: printable ASCII, escaped for text and for attributes."""
    return escape(printable("" if value is None else value), quote=True)


def page(verdict: Verdict, found: Gathered, made: str) -> Iterator[str]:
    """The page, piece by piece. `made` is the time at which it is made."""
    style, script = ((_HERE / f"report.{kind}").read_text(encoding="ascii") for kind in ("css", "js"))
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta name="referrer" content="no-referrer">\n'
    yield f"<title>domward audit report</title>\n<style>{style}</style>\n</head>\n<body>\n"
    yield from _header(verdict, found, made)
    yield "<main>\n"
    yield from _grave(found)
    yield from _timeline(found)
    yield from _operations(found)
    yield from _actors(found)
    yield from _booted(found)
    yield from _confinement(found)
    yield from _files(verdict)
    yield from _others(found)
    yield f"<footer>Made by domward {text(domward.__version__)}. All times are UTC. What was in the logs is shown as "
    yield "printable ASCII; other bytes as \\xNN.</footer>\n"
    yield f"</main>\n<script>{script}</script>\n</body>\n</html>\n"


def _policy(style: str, script: str) -> str:
    hashes = [base64.b64encode(sha256(source.encode()).digest()).decode() for source in (style, script)]
    allowed = f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _header(verdict: Verdict, found: Gathered, made: str) -> Iterator[str]:
    hosts = ", ".join(text(host or "unknown") for host in found.hosts) or "none"
    yield "<header><div>\n<h1>Audit report</h1>\n"
    yield f'<p class="faint">Hosts: {hosts} &middot; {_span(found)} &middot; made {text(_short(made))}</p>\n'
    count = verdict.count
    if verdict.whole:
        yield '<div class="verdict whole"><b>The chain is whole.</b> No record was changed, removed, moved or added'
        yield f" ({verdict.checkpoints} checkpoint{_s(verdict.checkpoints)} compared)."
    else:
        yield f'<div class="verdict broken"><b>The log is not what was written: {count} problem{_s(count)}.</b>'
        yield '<ul class="problems">'
        for place, problem in enumerate(verdict.all_problems()):
            if place == _LISTED_PROBLEMS:
                yield "<li>and more: domward audit verify lists them</li>"
                break
            where = f"{problem.file}:{problem.line}" if problem.file is not None else ""
            yield f"<li><code>{text(where)}</code> {text(problem.kind.value)}: {text(problem.what)}</li>"
        yield "</ul>"
    for note in [*verdict.notes, *(note for file in verdict.files for note in file.notes)]:
        yield f"<p>{text(note)}</p>"
    yield '</div>\n<ul class="numbers">\n'
    total = sum(found.outcomes.values())
    numbers = [("operations", total), *((name, found.outcomes[name]) for name in OUTCOMES if found.outcomes[name])]
    numbers.append(("violations", found.events[Event.PROTOCOL_VIOLATION.value]))
    numbers.append(("records", found.records))
    for name, number in numbers:
        yield f"<li><b>{number:,}</b><span>{text(name)}</span></li>\n"
    yield "</ul>\n</div></header>\n"


def _grave(found: Gathered) -> Iterator[str]:
    rows = worst_first(found)
    yield f"<h2>To look at first <small>refusals, violations and failures: {len(rows)}</small></h2>\n"
    if not rows:
        yield '<p class="faint">Nothing was refused, nothing failed, nobody broke the protocol.</p>\n'
        return
    yield _table("Time", "Host", "What", "Reason", "Domain", "Who", "Operation", kind="table long")
    for host, record in rows:
        detail = record["detail"]
        yield f'<tr class="grave" data-outcome="{text(record["outcome"])}">{_time(record["time"])}'
        yield f"<td>{text(host)}</td><td>{_tag(record['event'], record['outcome'])}</td>"
        yield f"<td>{text(what(record) or json.dumps(detail))}</td><td>{text(named(record['domain']))}</td>"
        yield f"<td>{_who(record['actor'])}</td><td><code>{text(record['operation'])}</code></td></tr>\n"
    yield "</table></div>\n"


def _timeline(found: Gathered) -> Iterator[str]:
    spans = [*buckets(found.ends)]
    if not spans:
        return
    highest = max(sum(counts.values()) for _, counts in spans) or 1
    width = 600 / len(spans)
    yield '<h2>Timeline <small>operations by how they came out</small></h2>\n<div class="timeline"><div class="legend">'
    for name in OUTCOMES:
        if found.outcomes[name]:
            yield f'<span><i class="fill-{text(name)}"></i>{text(name)}</span>'
    yield f"<span>highest bar: {highest}</span></div>\n"
    yield '<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="operations over time">\n'
    for place, (begin, counts) in enumerate(spans):
        top = 100.0
        for name in OUTCOMES:
            if counts[name]:
                height = max(100 * counts[name] / highest, 1.5)
                top -= height
                yield f'<rect class="fill-{name}" x="{place * width + width * 0.08:.2f}" y="{max(top, 0):.2f}" '
                yield f'width="{width * 0.84:.2f}" height="{height:.2f}">'
                yield f"<title>{text(begin)}: {counts[name]} {name}</title></rect>\n"
    yield f'</svg><div class="axis"><span>{text(_short(found.first))}</span>'
    yield f"<span>{text(_short(found.last))}</span></div></div>\n"


def _operations(found: Gathered) -> Iterator[str]:
    left_out = f"; the {found.left_out:,} oldest are not listed" if found.left_out else ""
    yield f"<h2>Operations <small>newest first{left_out}</small></h2>\n"
    yield '<div class="search" hidden><input type="search" aria-label="search" autocomplete="off" '
    yield 'placeholder="Search: host, domain, disk, hash, user, reason ...">'
    for name in OUTCOMES:
        if found.outcomes[name]:
            yield f'<button type="button" data-outcome="{text(name)}" aria-pressed="false">{text(name)}</button>'
    yield '<output class="faint"></output></div>\n'
    for operation in sorted(found.operations, key=lambda one: str(one.records[0]["time"]), reverse=True):
        yield from _operation(operation)


def _operation(operation: OperationSeen) -> Iterator[str]:
    first, outcome = operation.records[0], operation.outcome
    asked, result = operation.detail(Event.REQUEST), operation.detail(Event.RESULT)
    disk = text(asked.get("disk") or operation.id)
    yield f'<details class="operation" data-outcome="{text(outcome)}">'
    yield f"<summary><span>{text(_short(first['time']))}</span><span>{_tag(outcome, outcome)}</span>"
    yield f"<span>{text(named(first['domain']) or operation.host)}</span>"
    yield f'<span class="mono">{disk}</span><span>{_who(first["actor"])}</span></summary>'
    yield '<div class="inside"><dl>'
    actor = first["actor"]
    login = _or_none(actor.get("loginuid"))
    program = f"{actor.get('exe')} (pid {actor.get('pid')}, gid {actor.get('gid')}, login uid {login})"
    pairs: list[tuple[str, object]] = [
        ("Operation", operation.id),
        ("Host", operation.host),
        ("Domain", _domain(first["domain"])),
        ("Asked by", program),
        ("Control group", actor.get("cgroup")),
        ("Entry asked for", asked.get("entry")),
        ("Arguments asked for", asked.get("args")),
        ("Booted", result.get("title")),
        ("Kernel arguments", result.get("args")),
        ("From", result.get("source")),
        ("Kernel", _file(result.get("kernel"))),
        ("Ramdisk", _file(result.get("ramdisk"))),
    ]
    for name, value in pairs:
        if value not in (None, ""):
            yield f"<dt>{name}</dt><dd>{text(value)}</dd>"
    yield "</dl><table><tr><th>Time</th><th>Record</th><th>Event</th><th>What</th></tr>"
    for record in operation.records:
        yield f'<tr><td class="time">{text(str(record["time"])[11:26])}</td>'
        yield f'<td class="number">{text(record["seq"])}</td>'
        yield f"<td>{_tag(record['event'], record['outcome'])}</td><td>{text(what(record))}{_more(record)}</td></tr>"
    yield "</table></div></details>\n"


def _more(record: dict[str, Any]) -> str:
    """What a summary has no room for: layers of a helper, descriptors with their inodes."""
    detail = record["detail"]
    if record["event"] == Event.HELPER_STARTED.value:
        layers, seen = text(_listed(detail.get("layers"))), text(_listed(detail.get("verified")))
        return f'<div class="faint">layers: {layers}; seen from outside: {seen}</div>'
    if record["event"] in (Event.FDS_PASSED.value, Event.FDS_RECEIVED.value) and isinstance(detail.get("fds"), list):
        lines = []
        for fd in detail["fds"]:
            if isinstance(fd, dict):
                size = f", {fd['bytes']} bytes" if fd.get("bytes") is not None else ""
                lines.append(
                    f"{fd.get('name')}: {fd.get('kind')}, device {fd.get('device')} inode {fd.get('inode')}, "
                    f"mode {fd.get('mode')}, {fd.get('access')}{size}"
                )
        return "".join(f'<div class="faint">{text(line)}</div>' for line in lines)
    return ""


def _actors(found: Gathered) -> Iterator[str]:
    yield "<h2>Who asked</h2>\n"
    yield _table("Host", "User id", "Login id", "Program", "Operations", "How they came out")
    for (host, uid, loginuid, exe), counts in sorted(found.actors.items(), key=lambda one: -sum(one[1].values())):
        yield f"<tr><td>{text(host)}</td><td>{text(uid)}</td><td>{text(_or_none(loginuid))}</td>"
        yield f"<td><code>{text(exe)}</code></td>"
        yield f'<td class="number">{sum(counts.values()):,}</td><td>{_counts(counts)}</td></tr>\n'
    yield "</table></div>\n"


def _booted(found: Gathered) -> Iterator[str]:
    yield "<h2>What booted <small>by the kernel's SHA-256</small></h2>\n"
    yield _table("Kernel", "Title", "Times", "Last", "Domains", "Ramdisk")
    for digest, seen in sorted(found.booted.items(), key=lambda one: str(one[1]["last"]), reverse=True):
        detail = seen["detail"]
        domains = ", ".join(sorted(name for name in seen["domains"] if name))
        ramdisk = detail.get("ramdisk")
        yield f"<tr><td><code>{text(digest)}</code></td><td>{text(detail.get('title'))}</td>"
        yield f'<td class="number">{seen["times"]:,}</td>{_time(seen["last"])}<td>{text(domains)}</td>'
        yield f"<td><code>{text(_file(ramdisk))}</code></td></tr>\n"
    yield "</table></div>\n"


def _confinement(found: Gathered) -> Iterator[str]:
    yield "<h2>With which confinement <small>helpers that were started</small></h2>\n"
    yield _table("Helper", "Layers put on", "Seen from outside", "Done without", "Times")
    for (kind, layers, seen, without), times in sorted(found.confinement.items()):
        lacking = _tag(", ".join(without), "refused") if without else "none"
        yield f'<tr><td>{text(kind)}</td><td class="number">{layers}</td><td class="number">{seen}</td>'
        yield f'<td>{lacking}</td><td class="number">{times:,}</td></tr>\n'
    yield "</table></div>\n"


def _files(verdict: Verdict) -> Iterator[str]:
    yield "<h2>Chains and files</h2>\n"
    yield _table("File", "Host", "Chain", "Records", "From", "To", "State")
    for file in verdict.files:
        yield f"<tr><td><code>{text(file.path)}</code></td><td>{text(file.host or 'unknown')}</td>"
        yield f"<td><code>{text(file.chain or 'unknown')}</code></td><td>{text(_places(file))}</td>"
        yield f"{_time(file.begun)}{_time(file.ended)}"
        broken = len(file.problems) + file.untold
        state = ("broken", "failed") if broken else ("torn at its end", "refused") if file.torn else ("whole", "ok")
        yield f"<td>{_tag(*state)}</td></tr>\n"
    yield "</table></div>\n"


def _others(found: Gathered) -> Iterator[str]:
    yield "<h2>The log and the supervisor <small>records of no operation</small></h2>\n"
    yield _table("Time", "Host", "Record", "Event", "What", kind="table long")
    for host, record in reversed(found.others):
        yield f'<tr class="other" data-outcome="{text(record["outcome"])}">{_time(record["time"])}<td>{text(host)}</td>'
        yield f'<td class="number">{text(record["seq"])}</td><td>{_tag(record["event"], record["outcome"])}</td>'
        yield f"<td>{text(what(record))}</td></tr>\n"
    yield "</table></div>\n"


# --- pieces -------------------------------------------------------------------------------------------------------


def _table(*titles: str, kind: str = "table") -> str:
    return f'<div class="{kind}"><table><tr>' + "".join(f"<th>{title}</th>" for title in titles) + "</tr>\n"


def _time(time: object) -> str:
    return f'<td class="time">{text(_short(time))}</td>'


def _tag(words: object, outcome: object) -> str:
    kind = outcome if outcome in OUTCOMES else "cancelled"
    return f'<span class="tag {kind}">{text(words)}</span>'


def _counts(counts: Counter[str]) -> str:
    return " ".join(_tag(f"{counts[name]:,} {name}", name) for name in OUTCOMES if counts[name])


def _who(actor: dict[str, Any]) -> str:
    login = actor.get("loginuid")
    return text(f"uid {actor.get('uid')}" + (f" (login {login})" if login not in (None, actor.get("uid")) else ""))


def _or_none(value: object) -> object:
    return "none" if value is None else value


def _domain(domain: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (domain or {}).items() if value is not None)


def _file(file: object) -> str:
    return f"{file.get('sha256')} ({file.get('bytes')} bytes)" if isinstance(file, dict) else ""


def _listed(values: object) -> str:
    return ", ".join(str(value) for value in values) if isinstance(values, list) else ""


def _places(file: FileReport) -> str:
    return f"{file.first.seq} to {file.last.seq}" if file.first and file.last else "none"


def _short(time: object) -> str:
    return str(time)[:19].replace("T", " ")


def _span(found: Gathered) -> str:
    return f"{text(_short(found.first))} to {text(_short(found.last))}" if found.records else "no records"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
