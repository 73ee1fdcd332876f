# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations of guests by property: any content is a configuration within its limits, or one sentence."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from domward.protocol import limits
from domward.supervisor.guest_config import KEYS, GuestConfigError, parse_config
from domward.supervisor.guest_disks import DiskSpecError, parse_disk

_PIECES = st.sampled_from(
    [
        *KEYS,
        "=",
        "[",
        "]",
        ",",
        ";",
        "\n",
        '"',
        "'",
        "\\",
        "#",
        " ",
        "0x",
        "1",
        "64",
        '"a"',
        "'/d,,xvda'",
        "\0",
        "é",
        "vif",
    ]
)
_WORDS = st.lists(_PIECES, max_size=40).map("".join).map(str.encode)


def check(content: bytes) -> None:
    sentence = ""
    try:
        found = parse_config(content, "f")
    except GuestConfigError as error:
        sentence = error.sentence
    if sentence:
        assert sentence.isprintable()
        assert sentence.isascii()
        assert sentence.startswith("f")
        return
    assert 1 <= len(found.name) <= limits.GUEST_NAME_BYTES
    assert 1 <= len(found.disks) <= limits.GUEST_DISKS
    assert all(disk.target.is_absolute() and "\0" not in str(disk.target) for disk in found.disks)
    assert found.args is None or len(found.args) <= limits.CMDLINE_BYTES


@settings(max_examples=300)
@given(st.binary(max_size=200) | _WORDS)
@example(b'name="a"\nmemory=64\ndisk=["/d,,xvda"]')
def test_any_content_is_a_configuration_or_a_sentence(content: bytes) -> None:
    check(content)
    check(b'name="a"\nmemory=64\ndisk=["/d,,xvda"]\n' + content)


@settings(max_examples=300)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["/d", ",", "=", "vdev", "target", "xvda", "raw", "phy:", " ", "r"])).map("".join)
)
def test_any_text_is_a_disk_or_a_sentence(text: str) -> None:
    sentence = ""
    try:
        found = parse_disk(text)
    except DiskSpecError as error:
        sentence = str(error)
    if sentence:
        assert sentence.isascii()
        return
    assert found.target.is_absolute()


def test_a_file_of_nothing_but_openings_is_read_in_linear_time() -> None:
    for content in (
        b"[" * 65000,
        b"disk=[" + b"'a'," * 16000,
        b'"' * 65001,
        b"\\" * 65000,
        b"a=1\n" * 16000,
        b"'\\'" * 21000,
    ):
        check(content)
