# SPDX-License-Identifier: GPL-3.0-or-later
"""The few structures that the readers define are those of the whole definitions in dissect's file system libraries."""

import pytest
from dissect.btrfs.c_btrfs import c_btrfs
from dissect.extfs.c_ext import c_ext
from dissect.fat.c_fat import c_fat
from dissect.xfs.c_xfs import c_xfs

from domward.helpers.reader import layouts

STRUCTURES = [
    (layouts.ext, c_ext, "ext4_super_block"),
    (layouts.ext, c_ext, "ext4_group_desc"),
    (layouts.ext, c_ext, "ext2_group_desc"),
    (layouts.ext, c_ext, "ext4_inode"),
    (layouts.xfs, c_xfs, "xfs_sb"),
    (layouts.xfs, c_xfs, "xfs_dinode"),
    (layouts.btrfs, c_btrfs, "btrfs_super_block"),
    (layouts.btrfs, c_btrfs, "btrfs_inode_item"),
    (layouts.fat, c_fat, "Bpb"),
    (layouts.fat, c_fat, "Bpb16"),
    (layouts.fat, c_fat, "Bpb32"),
]


@pytest.mark.parametrize(("load", "whole", "name"), STRUCTURES, ids=[name for _, _, name in STRUCTURES])
def test_every_field_lies_where_dissect_has_it(load, whole, name):
    ours, theirs = getattr(load(), name), getattr(whole, name)
    named = [field for field in ours.fields if not field.startswith("_")]
    assert named
    for field in named:
        if field == "dev_item_devid":
            item = theirs.fields["dev_item"]
            expected = (item.offset + item.type.fields["devid"].offset, item.type.fields["devid"].type)
        else:
            expected = (theirs.fields[field].offset, theirs.fields[field].type)
        found = ours.fields[field]
        assert (found.offset, found.type.__name__, found.type.size) == (
            expected[0],
            expected[1].__name__,
            expected[1].size,
        )


@pytest.mark.parametrize(("load", "whole"), {(load, whole) for load, whole, _ in STRUCTURES})
def test_the_byte_order_is_dissects(load, whole):
    assert load().endian == whole.endian


def test_load_all_loads_every_definition_once():
    layouts.load_all()
    before = (layouts.ext(), layouts.xfs(), layouts.btrfs(), layouts.fat())
    layouts.load_all()
    assert before == (layouts.ext(), layouts.xfs(), layouts.btrfs(), layouts.fat())
