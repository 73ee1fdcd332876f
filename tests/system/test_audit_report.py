# SPDX-License-Identifier: GPL-3.0-or-later
"""The report in a real browser: what a reviewer sees, that it searches, and that a log is never more than text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from support.audit_logs import entry, opened, operation, written_log
from support.browser import Tab, opened_page
from support.commands import domward

from domward.supervisor.audit.record import Event, Outcome

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '" onmouseover="document.title=\'owned\'" x="',
    "</td></table></main><h1>The chain is whole</h1>",
    "<style>*{display:none}</style>",
    "javascript:document.title='owned'",
    "&lt;b&gt;&#0;\x1b[2J\u202e\x00</title>",
    "{{7*7}}${7*7}<!--",
    "<meta http-equiv=refresh content='0;url=http://192.0.2.1/'><base href='http://192.0.2.1/'>",
    "<svg onload=alert(1)><iframe src='http://192.0.2.1/'></iframe>",
)


def report(page: Path, *logs: Path, code: int = 0) -> Path:
    ran = domward("audit", "report", *logs, "--output", page)
    assert (ran.code, ran.err) == (code, "")
    return page


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written_log(tmp_path / "log" / "audit.log", 40)


def shown(tab: Tab) -> int:
    """How many operations are to be seen."""
    number = tab.evaluate("[...document.querySelectorAll('details.operation')].filter(one => !one.hidden).length")
    assert isinstance(number, int)
    return number


def searched(tab: Tab, words: str) -> int:
    """How many are to be seen once `words` are in the search field."""
    tab.evaluate(
        "new Promise(done => { const field = document.querySelector('.search input');"
        f" field.value = {json.dumps(words)}; field.dispatchEvent(new Event('input')); setTimeout(done, 400); }})"
    )
    return shown(tab)


def test_a_reviewer_sees_the_verdict_the_refusals_and_every_operation(log: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", log)
    with opened_page(page) as tab:
        assert "The chain is whole" in tab.evaluate("document.querySelector('.verdict').innerText")
        assert tab.evaluate("document.querySelectorAll('tr.grave').length") == 4
        assert shown(tab) == 40
        assert tab.evaluate("document.querySelectorAll('.timeline rect').length") > 0
        tab.evaluate("document.querySelector('details.operation[data-outcome=ok] summary').click()")
        inside = tab.evaluate("document.querySelector('details[open] .inside').innerText")
        for word in ("abababab", "inode 11", "mode 100600", "mount-namespace", "/usr/bin/domward", "db-1"):
            assert word in inside
        assert tab.evaluate("document.body.scrollWidth <= window.innerWidth")
        tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert page.stat().st_mode & 0o777 == 0o600


def test_the_page_searches_and_filters_without_a_network(log: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", log)
    with opened_page(page) as tab:
        assert searched(tab, "/guests/17.img") == 1
        assert searched(tab, "REFUSED it may not") == 4
        assert searched(tab, "no such words") == 0
        assert searched(tab, "") == 40
        tab.evaluate("document.querySelector('button[data-outcome=refused]').click()")
        assert shown(tab) == 4
        assert tab.evaluate("document.querySelector('output').textContent") == "4 of 40 operations"
        tab.evaluate("document.querySelector('button[data-outcome=refused]').click()")
        assert shown(tab) == 40
        requests = [one["request"]["url"] for one in tab.seen("Network.requestWillBeSent")]
        assert requests == [page.as_uri()]
        assert tab.seen("Log.entryAdded") == []  # neither an error nor a violation of the page's policy


def test_nothing_in_a_log_is_more_than_text(tmp_path: Path) -> None:
    path = written_log(tmp_path / "log" / "audit.log", 1)
    with opened(path) as log:
        for number, hostile in enumerate(HOSTILE):
            name = f"boot-{hostile}{number}"
            started = {"helper": hostile, "kind": hostile, "uid": hostile, "layers": [hostile], "without": [hostile]}
            fd, kernel = {"name": hostile, "kind": hostile, "mode": hostile}, {"bytes": hostile, "sha256": hostile}
            log.append(
                [
                    entry(Event.REQUEST, name, disk=hostile, entry=hostile, args=hostile),
                    entry(Event.HELPER_STARTED, name, **started, verified=[hostile]),
                    entry(Event.FDS_PASSED, name, helper=hostile, fds=[fd]),
                    entry(Event.RESULT, name, title=hostile, args=hostile, kernel=kernel),
                    entry(Event.FAILURE, name, Outcome.FAILED, code=hostile, sentence=hostile),
                    entry(Event.COMPLETION, name, Outcome.FAILED, code=hostile),
                ]
            )
    check_harmless(tmp_path, path)


def forge(log: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Writes every record anew, changed, with right hashes and raw bytes of any kind."""
    made, before = [], "0" * 64
    for line in log.read_bytes().splitlines():
        record = json.loads(line)
        change(record)
        del record["prev"], record["hash"]
        head = json.dumps(record, ensure_ascii=False, separators=(",", ":"))[:-1] + f',"prev":"{before}"'
        before = sha256(head.encode()).hexdigest()
        made.append(f'{head},"hash":"{before}"}}\n')
    log.write_bytes("".join(made).encode())


def test_a_forged_log_cannot_do_more(log: Path, tmp_path: Path) -> None:
    hostile = "".join(HOSTILE[:6]) + "\u202e\u2028é"

    def change(record: dict[str, object]) -> None:
        record["boot"] = record["errno"] = record["outcome"] = hostile
        record["actor"] = {"uid": hostile, "pid": hostile, "exe": hostile, "cgroup": hostile, "loginuid": [hostile]}
        record["domain"] = {"name": hostile, hostile: hostile}
        if record["event"] == "log-opened":
            record["detail"] = {"host": hostile, "chain": hostile, "machine": hostile, "former": hostile}
        elif record["event"] != "completion":
            record["event"] = hostile

    forge(log, change)
    check_harmless(tmp_path, log)


def check_harmless(folder: Path, log: Path) -> None:
    page = report(folder / "report.html", log)
    source = page.read_text(encoding="ascii")
    assert all(" " <= character <= "~" or character == "\n" for character in source)
    assert source.count("<script") == source.count("<style") == source.count("<h1") == 1
    plain = html.unescape(re.sub(r"<[^>]*>", "", source))
    assert "document.title='owned'" in plain
    with opened_page(page) as tab:
        assert tab.evaluate("document.title") == "domward audit report"
        assert tab.evaluate("document.querySelectorAll('h1, img, iframe, base, svg[onload]').length") == 1
        assert tab.evaluate("document.querySelectorAll('script').length") == 1
        assert (
            tab.evaluate(
                "[...document.querySelectorAll('*')].some(one => one.getAttributeNames().some(n => n.startsWith('on')))"
            )
            is False
        )
        assert [one["request"]["url"] for one in tab.seen("Network.requestWillBeSent")] == [page.as_uri()]


def test_what_was_done_to_a_log_is_on_top(log: Path, tmp_path: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:7], *lines[8:]]))
    page = report(tmp_path / "report.html", log).read_text()
    verdict = page[page.index('<div class="verdict') : page.index("<main>")]
    assert "The log is not what was written: 1 problem." in verdict
    assert "Record 8 is missing" in verdict


def test_logs_of_several_hosts_are_on_one_page(log: Path, tmp_path: Path) -> None:
    other = written_log(tmp_path / "other" / "audit.log", 3)

    def change(record: dict[str, object]) -> None:
        if record["event"] == "log-opened":
            assert isinstance(record["detail"], dict)
            record["detail"]["host"] = "second-host"

    forge(other, change)
    other.with_name("audit.log.head").unlink()
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    page = report(tmp_path / "report.html", log, other).read_text()
    assert "second-host" in page[page.index("Hosts:") : page.index("<main>")]
    ran = domward("audit", "show", log, other, "--event", "request")
    assert ran.code == 1
    assert ran.out.count(" second-host ") == 3
    assert "cut-off: Record" in ran.err


def test_ten_thousand_records_make_a_page_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    path.parent.mkdir(mode=0o750)
    with opened(path) as log:
        log.append([one for number in range(2100) for one in operation(number)])
    page = report(tmp_path / "report.html", path)
    assert page.stat().st_size < 8 << 20
    with opened_page(page) as tab:
        assert shown(tab) == 2100
        assert searched(tab, "/guests/1999.img") == 1


def test_an_earlier_page_stays_where_a_new_one_cannot_be_written(log: Path, tmp_path: Path) -> None:
    page = tmp_path / "folder" / "report.html"
    assert "cannot be written" in domward("audit", "report", log, "--output", page).error("failed")
    assert domward("audit", "report", log).out.startswith("<!DOCTYPE html>")
    assert domward("audit", "report", tmp_path / "none.log").error("failed")
