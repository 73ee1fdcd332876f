# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a disk's boot configuration holds: a menu or a DiskError, within the budget, and never anything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.memory_forest import MemoryForest, MemoryTree

from domward.helpers.reader.bls import compare_versions
from domward.helpers.reader.boot_paths import BootPaths, Location
from domward.helpers.reader.config_budget import ConfigBudget
from domward.helpers.reader.finder import find_menu
from domward.helpers.reader.grub_lexer import TokenKind, tokens
from domward.helpers.reader.grub_script import run_configuration
from domward.helpers.reader.grubenv import SIGNATURE, parse_environment
from domward.helpers.reader.interface import BootMenu
from domward.helpers.reader.selection import choose
from domward.protocol import limits
from domward.protocol.errors import DiskError

DATA = Path(__file__).parents[1] / "data" / "boot"
SAMPLES = sorted(DATA.glob("*.cfg"))
MUTANTS = 150  # of each sample
RUNS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])

GRUB_WORDS = """
menuentry submenu { } if then elif else fi for in do done while until function return break continue exit set unset
export source configfile load_env search --set=root --fs-uuid --id --label --file linux initrd module multiboot
/xen.gz /vmlinuz /boot/grub/grub.cfg /boot/grub/grubenv [ ] ( ) ! -a -o -f -d -n -z = != -lt test true false $a ${a} $1
$@ $# $? $root $prefix a=b a=$a$a a b "q" "$a" 'x' ' " \\ ; & | # $ $* increment blscfg shift setparams default=1>2
timeout=5 fallback=0 probe -u (hd0,gpt1)/vmlinuz (hd0) 0000-0 f 1 2
"""
EXTLINUX_LINES = """
default a;timeout 5;label a;label b;kernel /vmlinuz;linux vmlinuz;initrd /initrd,/initrd;append x initrd=/initrd;
menu label ^A;menu default;menu begin s;menu end;include /extlinux.conf;ui x;prompt 1;append -;com32 x;menu;#;;
kernel x.c32;\x00;timeout -1;timeout 99999999999999999999
"""
WORDS = st.sampled_from(GRUB_WORDS.split())
SEPARATORS = st.sampled_from([" ", "\n", "; ", "", "\\\n", "\t"])
SCRIPTS = st.lists(st.tuples(WORDS, SEPARATORS), max_size=120).map(
    lambda pairs: "".join(word + separator for word, separator in pairs).encode()
)


def outcome_of(forest: MemoryForest) -> BootMenu | DiskError:
    try:
        return find_menu(forest)
    except DiskError as error:
        return error


def menu_or_none(files: dict[str, bytes]) -> BootMenu | None:
    """The menu, None for a DiskError; any other exception is the test's failure. What it holds is checked."""
    forest = MemoryForest.of({"/vmlinuz": b"k", "/initrd": b"i", **files}, {"/other": b"k"})
    menu = outcome_of(forest)
    if isinstance(menu, DiskError):
        assert str(menu).isprintable()
        return None
    assert 0 <= menu.default < len(menu.entries) <= limits.ENTRIES
    assert menu.source.isprintable()
    assert menu.timeout is None or menu.timeout >= 0
    for entry in menu.entries:
        assert bool(entry.problem) is (entry.kernel is None)
        assert entry.problem.isprintable()
        assert len(entry.problem) <= 256
        assert len(entry.title) <= limits.TITLE_BYTES
        assert len(entry.path) <= limits.SUBMENU_DEPTH
        assert len(entry.initrds) <= limits.INITRDS
        assert len(entry.args) <= limits.TEXT_BYTES
        assert not any(byte < 0x20 or byte == 0x7F for byte in entry.args)
    assert sum(tree.looked_up for tree in forest.trees if isinstance(tree, MemoryTree)) < limits.CONFIG_STEPS
    try:
        chosen = choose(menu)
    except DiskError:
        return menu
    assert len(chosen.args) <= limits.CMDLINE_BYTES
    return menu


def mutant(content: bytes, seed: int) -> bytes:
    """`content` with a few bytes, lines and pieces changed, moved, doubled or lost."""
    chance = random.Random(seed)
    lines = content.splitlines(keepends=True)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                del lines[at : at + chance.randint(1, 5)]
            case 1:
                lines[at:at] = lines[at : at + chance.randint(1, 30)] * chance.randint(1, 4)
            case 2:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 3:
                line = bytearray(lines[at] or b"\n")
                line[chance.randrange(len(line))] = chance.choice(b"{}'\"$\\;\n\0 |&#()[]=>\xff0")
                lines[at] = bytes(line)
            case 4:
                lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        lines = lines or [b"\n"]
    return b"".join(lines)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_mutants_of_real_configurations(sample: Path) -> None:
    content = sample.read_bytes()
    with_entries = 0
    for seed in range(MUTANTS):
        files = {"/boot/grub/grub.cfg": mutant(content, seed), "/boot/grub/grubenv": SIGNATURE + b"saved_entry=1>2\n"}
        files["/loader/entries/x-1-2.conf"] = mutant(b"title x\nlinux /vmlinuz\noptions $kernelopts a\n", seed)
        menu = menu_or_none(files)
        with_entries += menu is not None and menu.source.startswith("grub:")
    assert with_entries > MUTANTS // 3  # a broken statement costs itself, not the menu


@RUNS
@given(SCRIPTS)
def test_scripts_of_grubs_own_words(script: bytes) -> None:
    menu_or_none({"/boot/grub/grub.cfg": script, "/boot/grub/grubenv": SIGNATURE + b"a=$a;b\\\n=c\nroot=hd0,gpt2\n"})


@RUNS
@given(st.binary(max_size=400))
def test_any_bytes_in_any_file(content: bytes) -> None:
    for path in ("/boot/grub/grub.cfg", "/extlinux.conf", "/loader/entries/a.conf"):
        menu_or_none({path: content, "/boot/grub/grubenv": SIGNATURE + content, "/loader/loader.conf": content})


@RUNS
@given(st.lists(st.sampled_from(EXTLINUX_LINES.split(";")), max_size=40))
def test_extlinux_lines_in_any_order(lines: list[str]) -> None:
    menu_or_none({"/extlinux.conf": "\n".join(lines).encode()})


@RUNS
@given(st.binary(max_size=2000))
def test_tokens_pay_for_themselves_and_end(content: bytes) -> None:
    budget = ConfigBudget()
    found = list(tokens(content, budget))
    assert len(found) <= len(content)
    assert all(bool(token.word) is (token.kind is TokenKind.WORD) for token in found)
    assert limits.CONFIG_STEPS - budget.steps_left <= 4 * len(content)


@RUNS
@given(SCRIPTS, st.integers(10, 2000))
def test_no_script_takes_more_than_its_budget(script: bytes, steps: int) -> None:
    forest = MemoryForest.of({"/vmlinuz": b"k", "/boot/grub/grub.cfg": script})
    budget = ConfigBudget(steps=steps, expanded=steps)
    try:
        run_configuration(BootPaths(forest, budget), Location(forest.trees[0], b"/boot/grub/grub.cfg"))
    except DiskError:
        return
    assert budget.steps_left >= 0
    assert budget.expanded_left >= 0


@RUNS
@given(st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=30), max_size=20))
def test_an_environment_block_gives_back_what_was_written(variables: dict[bytes, bytes]) -> None:
    variables = {name: value for name, value in variables.items() if not set(name) & set(b"\n\\=#")}
    lines = b"".join(
        name + b"=" + value.replace(b"\\", b"\\\\").replace(b"\n", b"\\\n") + b"\n" for name, value in variables.items()
    )
    assert parse_environment(SIGNATURE + lines + b"#" * 99, ConfigBudget()) == variables


VERSIONS = st.text(alphabet="0129aZ.~^-_", max_size=12).map(str.encode)


@RUNS
@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_of_versions_is_an_order(a: bytes, b: bytes, c: bytes) -> None:
    assert compare_versions(a, a) == 0
    assert compare_versions(a, b) == -compare_versions(b, a)
    if compare_versions(a, b) <= 0 and compare_versions(b, c) <= 0:
        assert compare_versions(a, c) <= 0
