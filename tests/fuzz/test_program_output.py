# SPDX-License-Identifier: GPL-3.0-or-later
"""A bootloader program's output is anybody's bytes: it parses to names in the program's own folder, or not at all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from domward.helpers.program_output import OutputError, parse_output
from domward.protocol import limits
from domward.protocol.text import has_control

FOLDER = b"/results"
PIECES = st.sampled_from(
    [
        b"kernel ",
        b"ramdisk ",
        b"args ",
        b"/results/",
        b"/results",
        b"..",
        b"/",
        b"k",
        b"\0",
        b"\0\0",
        b" ",
        b"\n",
        b"\xff",
    ]
)
OUTPUTS = st.one_of(
    st.lists(st.one_of(PIECES, st.binary(max_size=4)), max_size=30).map(b"".join),
    st.builds(
        lambda names, args: b"".join(names) + b"args " + args + b"\0\0",
        st.lists(st.sampled_from([b"kernel /results/k\0", b"ramdisk /results/r\0", b"kernel /etc\0"]), max_size=3),
        st.binary(max_size=1100),
    ),
)


@settings(deadline=None, derandomize=True, max_examples=1500)
@given(OUTPUTS)
def test_any_output_gives_names_of_its_folder_or_an_error(untrusted: bytes) -> None:
    try:
        found = parse_output(untrusted, FOLDER)
    except OutputError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert sentence == "" or (sentence.isprintable() and len(sentence) < limits.TEXT_BYTES)
    if sentence:
        return
    for name in (found.kernel, found.ramdisk):
        assert name is None or (name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name)
    assert len(found.args) <= limits.CMDLINE_BYTES
    assert not has_control(found.args)
    assert untrusted.endswith(b"\0\0")
