# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts send their records to a collector with programs that exist; there they are verified and read together."""

from __future__ import annotations

import json
from pathlib import Path

from support.audit_logs import records
from support.commands import COMMAND, domward
from support.fleet import Host, fleet, needs, until

JOURNALD, UPLOAD, REMOTE = (f"/lib/systemd/systemd-{name}" for name in ("journald", "journal-upload", "journal-remote"))
LOG = "/var/log/domward/audit.log"
RUNS = 3
_LISTENING = "0A"  # TCP_LISTEN, <net/tcp_states.h>

SENDER = """
global(workDirectory="/run" maxMessageSize="64k")
module(load="imfile" mode="inotify")
input(type="imfile" file="/var/log/domward/audit.log" tag="domward-audit" reopenOnTruncate="off")
action(type="omfwd" target="10.99.{number}.1" port="10514" protocol="tcp" template="RSYSLOG_SyslogProtocol23Format"
       action.resumeRetryCount="-1" action.resumeInterval="1")
"""
COLLECTOR = """
global(workDirectory="/run" maxMessageSize="64k")
module(load="imtcp")
template(name="file" type="string" string="/var/log/fleet/%hostname%.log")
template(name="line" type="string" string="%msg%\\n")
input(type="imtcp" port="10514")
action(type="omfile" dynaFile="file" template="line" createDirs="on" asyncWriting="off")
"""


def work(host: Host, disk: Path) -> Path:
    """Runs domward on `host` a few times; its log, from here."""
    for _ in range(RUNS):
        host.run(*COMMAND, "inspect", disk)
    return host.path(LOG)


def collected(messages: list[dict[str, str]], folder: Path) -> list[Path]:
    """The records in messages of journald, a file for each chain."""
    files: dict[str, list[str]] = {}
    for fields in messages:
        if "DOMWARD_RECORD" in fields:
            files.setdefault(fields["DOMWARD_CHAIN"], []).append(fields["DOMWARD_RECORD"])
    paths = []
    for chain, lines in files.items():
        paths.append(folder / f"{chain}.log")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def test_two_hosts_and_systemd_journal_remote(disk: Path, tmp_path: Path) -> None:
    needs(JOURNALD, UPLOAD, REMOTE, "ip")
    with fleet("collector", "dom0-a", "dom0-b") as (collector, *senders):
        (collector.path("/var/log") / "remote").mkdir()
        collector.start(REMOTE, "--listen-http=19532", "--output=/var/log/remote", "--split-mode=host")
        for host in senders:
            host.start(JOURNALD)
            until(host.path("/run/systemd/journal/socket").is_socket)
        logs = [work(host, disk) for host in senders]
        until(lambda: listens(collector, 19532))
        for number, host in enumerate(senders, 1):
            host.start(
                UPLOAD, f"--url=http://10.99.{number}.1:19532", "--save-state=/run/upload", "-D", "/run/log/journal"
            )
        messages: list[dict[str, str]] = []
        wanted = sum(len(records(log)) for log in logs) + 2 * RUNS  # each run ends with a checkpoint

        def complete() -> bool:
            text = collector.run("journalctl", "-D", "/var/log/remote", "-o", "json", "SYSLOG_IDENTIFIER=domward-audit")
            messages[:] = [json.loads(line) for line in text.splitlines()]
            return len(messages) == wanted

        until(complete)
        assert {fields["_HOSTNAME"] for fields in messages} == {"dom0-a", "dom0-b"}
        copies = collected(messages, tmp_path)
        assert sorted(copy.read_bytes() for copy in copies) == sorted(log.read_bytes() for log in logs)
        journal = tmp_path / "journal.json"
        journal.write_text("".join(json.dumps(fields) + "\n" for fields in messages))
        assert domward("audit", "verify", *copies, "--checkpoints", journal).code == 0
        copies[0].write_bytes(b"".join(copies[0].read_bytes().splitlines(keepends=True)[:-3]))
        cut = domward("audit", "verify", *copies, "--checkpoints", journal)
        host = json.loads(copies[0].read_bytes().splitlines()[0])["detail"]["host"]
        assert f"at the end of host {host}: a checkpoint knows of them" in cut.out


def test_two_hosts_and_rsyslog(disk: Path, tmp_path: Path) -> None:
    needs("rsyslogd", "ip")
    with fleet("collector", "dom0-a", "dom0-b") as (collector, *senders):
        configuration = tmp_path / "collector.conf"
        configuration.write_text(COLLECTOR)
        collector.start("rsyslogd", "-n", "-f", configuration, "-i", "/run/rsyslogd.pid")
        until(lambda: listens(collector, 10514))
        logs = [work(host, disk) for host in senders]
        for number, host in enumerate(senders, 1):
            sender = tmp_path / f"sender-{number}.conf"
            sender.write_text(SENDER.format(number=number))
            host.start("rsyslogd", "-n", "-f", sender, "-i", "/run/rsyslogd.pid")
        there = [collector.path(f"/var/log/fleet/{host.name}.log") for host in senders]
        until(lambda: same(there, logs))
        copies = taken(there, tmp_path)
        assert domward("audit", "verify", *copies).code == 0
        shown = domward("audit", "show", *copies, "--event", "completion")
        assert (shown.out.count(" dom0-a "), shown.out.count(" dom0-b ")) == (RUNS, RUNS)
        # One more run, while all of it is at work.
        senders[0].run(*COMMAND, "inspect", disk)
        until(lambda: same(there, logs))
        assert domward("audit", "verify", *taken(there, tmp_path)).code == 0


def same(copies: list[Path], logs: list[Path]) -> bool:
    """Whether each of `copies` has every byte of its log."""
    return all(copy.exists() for copy in copies) and [one.read_bytes() for one in copies] == [
        one.read_bytes() for one in logs
    ]


def taken(copies: list[Path], folder: Path) -> list[Path]:
    """`copies` in a folder that domward may look into."""
    for copy in copies:
        (folder / copy.name).write_bytes(copy.read_bytes())
    return [folder / copy.name for copy in copies]


def listens(host: Host, port: int) -> bool:
    """Whether something takes connections at a TCP port of `host`."""
    rows = [line.split() for line in host.run("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENING for row in rows)
