# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands print: nothing that a guest, or a helper that the guest took over, says can drive a terminal."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.results import boot_result

from domward.protocol.errors import DiskError, DiskReason, OperationFailed
from domward.protocol.layers import Layer
from domward.protocol.messages import EntryFound, VolumeFound
from domward.supervisor import report
from domward.supervisor.bootloader import InspectResult
from domward.supervisor.delivery import Delivered
from domward.supervisor.doctor import Diagnosis, FeatureReport, LayerReport, ProcessReport
from domward.supervisor.outcomes import error_line

hostile_text = st.text(max_size=12) | st.just("\x1b[2J\x9b31m\r\n\u202e")
hostile_bytes = st.binary(max_size=40) | st.just(b"\x1b[2J\x9b31m\r\n\xff")

volumes = st.builds(
    VolumeFound,
    index=st.integers(0, 3),
    scheme=hostile_text,
    offset=st.integers(0, 2**40),
    size=st.integers(0, 2**40),
    filesystem=hostile_text,
    uuid=hostile_text,
    label=hostile_bytes,
)
entries = st.builds(
    EntryFound,
    index=st.integers(0, 511),
    title=hostile_bytes,
    submenus=st.tuples(hostile_bytes),
    identifier=hostile_bytes,
    kernel=hostile_bytes,
    kernel_bytes=st.integers(0, 2**40),
    initrds=st.tuples(hostile_bytes),
    ramdisk_bytes=st.integers(0, 2**40),
    args=hostile_bytes,
    problem=hostile_text,
)
inspections = st.builds(
    InspectResult,
    operation=st.just("inspect-0"),
    image_format=hostile_text,
    volumes=st.tuples(volumes),
    remarks=st.tuples(hostile_text),
    entries=st.tuples(entries),
    default=st.integers(0, 512),
    source=hostile_text,
    reason=hostile_text,
    problem=hostile_text,
)


def is_printable(line: str) -> bool:
    return all(" " <= character <= "~" for character in line)


@given(inspections)
def test_an_inspection_is_printable(result: InspectResult) -> None:
    assert all(is_printable(line) for line in report.inspect_text(result))
    line = report.to_json(report.inspect_json(result))
    assert is_printable(line)
    found = json.loads(line)
    assert found["entries"][0]["title"].encode("utf-8", "surrogateescape") == result.entries[0].title
    assert found["volumes"][0]["label"].encode("utf-8", "surrogateescape") == result.volumes[0].label


@given(title=hostile_bytes, args=hostile_bytes, source=hostile_text)
def test_a_run_is_printable(title: bytes, args: bytes, source: str) -> None:
    with contextlib.closing(boot_result(title=title, args=args, source=source)) as result:
        where = Path("out\x1b[2J")
        delivered = Delivered(where / "kernel", where / "ramdisk", where / "args")
        assert all(is_printable(line) for line in report.run_text(result, delivered))
        line = report.to_json(report.run_json(result, delivered))
    assert is_printable(line)
    assert json.loads(line)["args"].encode("utf-8", "surrogateescape") == args


@given(sentence=hostile_text, advice=hostile_text)
def test_an_error_is_one_printable_line(sentence: str, advice: str) -> None:
    error = DiskError(DiskReason.CORRUPT, sentence, advice=advice, operation="boot-0", helper="bootloader 1")
    assert is_printable(error_line(error))
    assert error_line(error).startswith("domward: disk-corrupt: ")
    line = report.to_json(report.error_json(error))
    assert is_printable(line)
    assert json.loads(line)["error"]["exit_code"] == 7


def test_where_the_files_are() -> None:
    with contextlib.closing(boot_result()) as result:
        assert report.run_json(result, None)["kernel"]["path"] is None
        delivered = Delivered(Path("out/kernel"), Path("out/ramdisk"), Path("out/args"))
        assert report.run_json(result, delivered)["ramdisk"]["path"] == "out/ramdisk"
        assert [*report.run_text(result, delivered)][-1] == "written  out"
    with contextlib.closing(boot_result(ramdisk=None)) as result:
        assert report.run_json(result, delivered)["ramdisk"] is None
        assert "ramdisk  none" in report.run_text(result, None)


def test_sizes_are_easy_to_read() -> None:
    for size, text in (
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 29, "1.5 GiB"),
    ):
        volume = VolumeFound(index=0, scheme="disk", offset=0, size=size, filesystem="ext", uuid="", label=b"")
        result = InspectResult(
            operation="inspect-0",
            image_format="raw",
            volumes=(volume,),
            remarks=(),
            entries=(),
            default=512,
            source="",
            reason="",
            problem="",
        )
        assert f"volume   whole disk: ext, {text}, uuid " in report.inspect_text(result)
        assert report.inspect_json(result)["default"] is None


def test_a_diagnosis() -> None:
    diagnosis = Diagnosis(
        kernel="6.1.0-30-amd64",
        machine="x86_64",
        layers=(
            LayerReport(Layer.SECCOMP, "verified", True, "system calls are not limited"),
            LayerReport(Layer.LANDLOCK, "missing", False, "files are hidden by the empty root alone"),
        ),
        processes=(
            ProcessReport("supervisor", "whole", ("cap_chown", "cap_kill"), no_new_privs=False, refused=False),
            ProcessReport("launcher", "unknown", (), no_new_privs=False, refused=False),
        ),
        features=(FeatureReport("so-passpidfd", False, "another way is taken"),),
        helpers=(),
        problem=OperationFailed("It did not work."),
    )
    assert [*report.doctor_text(diagnosis)] == [
        "Linux 6.1.0-30-amd64 on x86_64",
        "seccomp              verified",
        "landlock             missing  without it, files are hidden by the empty root alone",
        "supervisor           whole: cap_chown cap_kill",
        "launcher             unknown",
        "so-passpidfd         absent: another way is taken",
        "problem: It did not work.",
        "This host cannot confine helpers as configured.",
    ]
    assert report.doctor_json(diagnosis)["problem"] == {
        "code": "failed",
        "exit_code": 1,
        "sentence": "It did not work.",
        "advice": "",
        "operation": "",
        "helper": "",
    }
