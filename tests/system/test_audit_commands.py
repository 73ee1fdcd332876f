# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward audit` as a person uses it: verify, show, sign, off the host as well; and the kernel's own audit."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.audit_logs import opened, operation, records, written_log
from support.audit_schema import faults
from support.commands import domward

from domward.supervisor.audit.log import Written
from domward.supervisor.audit.mirrors import Mirrors


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written_log(tmp_path / "log" / "audit.log", 10)


def test_verify_says_what_is_there_and_what_was_done_to_it(log: Path) -> None:
    ran = domward("audit", "verify", log)
    assert (ran.code, ran.err) == (0, "")
    assert f"{log}: whole, records 1 to 49, 2 boots\n" in ran.out
    assert ran.out.endswith("The log is whole.\n")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:9], lines[9].replace(b"db-1", b"db-2"), *lines[10:]]))
    ran = domward("audit", "verify", log)
    assert ran.error("audit-broken") == "1 problem in 1 file. Keep the files as they are."
    assert f"{log}:10: record 10: changed: The line is not what was written: its hash is another one." in ran.out
    found = domward("audit", "verify", log, "--json").out
    assert json.loads(found)["problems"] == [
        {
            "kind": "changed",
            "file": str(log),
            "line": 10,
            "record": 10,
            "what": "The line is not what was written: its hash is another one.",
        }
    ]


def test_a_log_of_which_records_are_gone_stops_every_run_until_somebody_resumes_it(disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    domward("audit", "resume", path).error("failed")
    assert list(tmp_path.iterdir()) == []
    written_log(path, 2)
    assert domward("audit", "resume", path).out == "No record is missing.\n"
    path.unlink()
    ran = domward("run", disk, "--output-dir", tmp_path / "out", "--audit-log", path)
    assert "'domward audit resume'" in ran.error("audit-unavailable")
    assert not (tmp_path / "out").exists()
    assert domward("audit", "resume", path).out == "resumed  record 13 says that others are gone\n"
    (damaged,) = (record for record in records(path) if record["event"] == "log-damaged")
    assert faults(damaged) == []
    assert damaged["actor"]["pid"] > 0
    assert domward("run", disk, "--audit-log", path).code == 0


def test_show_lists_what_the_options_want_in_each_form(log: Path) -> None:
    assert domward("audit", "show", log).out.count("\n") == 49
    assert domward("audit", "show", log, "--event", "refusal").out.count("\n") == 1
    wanted = ("audit", "show", log, "--operation", "boot-000000000002")
    assert [json.loads(line) for line in domward(*wanted, "--json").out.splitlines()] == records(log)[11:16]
    assert all(line.startswith("CEF:0|") for line in domward(*wanted, "--cef").out.splitlines())
    assert all(json.loads(line)["class_uid"] == 6003 for line in domward(*wanted, "--ocsf").out.splitlines())
    domward("audit", "show", log, "--event", "nonsense").error("usage")
    domward("audit", "show", log, "--since", "yesterday").error("usage")


def test_a_new_log_is_the_auditors_to_read_where_there_is_such_a_group(tmp_path: Path) -> None:
    groups = tmp_path / "group"
    groups.write_text(Path("/etc/group").read_text() + "domward-audit:x:64321:\n")
    before = ("unshare", "-m", "bash", "-c", 'mount --bind "$0" /etc/group && exec "$@"', str(groups))
    log = tmp_path / "log" / "audit.log"
    domward("inspect", tmp_path / "none.img", "--audit-log", log, before=before).error("disk-not-found")
    assert [(path.stat().st_gid, path.stat().st_mode & 0o777) for path in (log.parent, log)] == [
        (64321, 0o750),
        (64321, 0o640),
    ]
    assert log.with_name("audit.log.lock").stat().st_mode & 0o777 == 0o600


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the key of an auditor, that of somebody else, and a file of whose signatures count."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("this machine has no ssh-keygen")
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("auditor", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True)
    (folder / "allowed").write_text(f"auditor {(folder / 'auditor.pub').read_text()}")
    return folder


def test_a_signed_checkpoint_proves_a_copy_off_the_host(log: Path, keys: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    ran = domward("audit", "sign", log, "--key", keys / "auditor", "--output", checkpoint)
    assert (ran.code, ran.err) == (0, "")
    with opened(log) as more:
        more.append(operation(11))
    copy = tmp_path / "copy.log"
    copy.write_bytes(log.read_bytes())
    wanted = ("audit", "verify", copy, "--signed", checkpoint, "--allowed-signers", keys / "allowed")
    assert domward(*wanted).code == 0
    # Nothing but OpenSSH is needed to check the signature itself.
    command = ["ssh-keygen", "-Y", "verify", "-n", "domward-audit", "-I", "auditor", "-f", keys / "allowed"]
    with checkpoint.open("rb") as given:
        subprocess.run([*command, "-s", f"{checkpoint}.sig"], stdin=given, check=True, capture_output=True)
    copy.write_bytes(b"".join(copy.read_bytes().splitlines(keepends=True)[:40]))
    assert "cut-off: Records 41 to 49 are missing" in domward(*wanted).out


def test_a_signature_that_is_not_right_does_not_count(log: Path, keys: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert domward("audit", "sign", log, "--key", keys / "other", "--output", checkpoint).code == 0
    wanted = ("audit", "verify", log, "--signed", checkpoint, "--allowed-signers", keys / "allowed")
    assert "is no signature of that checkpoint by auditor" in last_line(domward(*wanted).err)
    domward(*wanted[:-2]).error("usage")
    assert domward("audit", "sign", log, "--key", keys / "auditor", "--output", checkpoint).code == 0
    assert domward(*wanted).code == 0
    checkpoint.write_text(checkpoint.read_text().replace('"seq":49', '"seq":48'))
    assert "is no signature" in last_line(domward(*wanted).err)


def last_line(text: str) -> str:
    """What domward said after ssh-keygen."""
    return text.splitlines()[-1]


def test_a_log_that_is_not_whole_is_not_signed(log: Path, keys: Path, tmp_path: Path) -> None:
    log.write_bytes(log.read_bytes()[:-100])
    ran = domward("audit", "sign", log, "--key", keys / "auditor", "--output", tmp_path / "checkpoint")
    assert "is not signed" in ran.error("audit-broken")
    assert not (tmp_path / "checkpoint").exists()


# --- the kernel's audit ----------------------------------------------------------------------------------------------

_GET, _SET, _VIRT_CONTROL = 1000, 1001, 2500  # <linux/audit.h>
_REQUEST, _ACK = 1, 4
_SOL_NETLINK, _NO_ENOBUFS = 270, 5  # <linux/netlink.h>
_READERS = 1  # the multicast group AUDIT_NLGRP_READLOG


def kernel_call(sock: socket.socket, kind: int, payload: bytes = b"") -> bytes:
    """Sends a request and returns what comes after its acknowledgement."""
    sock.send(struct.pack("=IHHII", 16 + len(payload), kind, _REQUEST | _ACK, 1, 0) + payload)
    answer = sock.recv(8192)
    if struct.unpack_from("=i", answer, 16)[0] != 0:
        raise OSError("refused")
    return sock.recv(8192) if kind == _GET else b""


@contextmanager
def kernel_auditing() -> Iterator[socket.socket]:
    """The kernel's audit switched on, and a reader of its records; as it was, in the end."""
    try:
        control = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
    except OSError:
        pytest.skip("this kernel has no audit")
    with control, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as reader:
        reader.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)  # records of others may be too many to be read: ours come last
        control.settimeout(10)
        reader.settimeout(10)
        try:
            reader.bind((0, _READERS))
            (enabled,) = struct.unpack_from("=I", kernel_call(control, _GET), 20)
            kernel_call(control, _SET, struct.pack("=10I", 1, 1, *[0] * 8))
        except OSError:
            pytest.skip("this kernel has no audit that we may switch on")
        try:
            yield reader
        finally:
            kernel_call(control, _SET, struct.pack("=10I", 1, enabled, *[0] * 8))


def test_completions_and_checkpoints_reach_the_kernels_audit(log: Path) -> None:
    with kernel_auditing() as reader:
        mirrors = Mirrors()
        with opened(log) as writer:
            written: list[Written] = writer.append(operation(11))
            mirrors.send(writer, written)
            mirrors.send(writer, ())
        found: list[str] = []
        while len(found) < 2:
            data = reader.recv(8192)
            text = data[16:].decode("ascii", "replace")
            if struct.unpack_from("=H", data, 4)[0] == _VIRT_CONTROL and f"pid={os.getpid()} " in text:
                found.append(text)
    assert 'virt=xen op=boot reason=ok vm="db-1" uuid=c0ffee00-0000-4000-8000-000000000007' in found[0]
    last = records(log)[-1]
    chain = records(log)[0]["detail"]["chain"]
    assert f'op=audit-checkpoint vm="?" uuid=? chain={chain} seq={last["seq"]} hash={last["hash"]}' in found[1]
    assert all("res=success" in text for text in found)
    kept = log.with_name("ausearch.txt")
    kept.write_text("".join(f"type=VIRT_CONTROL msg={text}\n" for text in found))
    assert domward("audit", "verify", log, "--checkpoints", kept).code == 0
