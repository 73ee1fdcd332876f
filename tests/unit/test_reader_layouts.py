# SPDX-License-Identifier: GPL-3.0-or-later
"""The few structures that the readers define are those of the whole definitions in dissect's file system libraries."""

import struct

import pytest
from dissect.btrfs.c_btrfs import c_btrfs
from dissect.extfs.c_ext import c_ext
from dissect.fat.c_fat import c_fat
from dissect.util.hash import crc32c
from dissect.xfs.c_xfs import c_xfs

from domward.helpers.reader import btrfs, layouts

STRUCTURES = [
    (layouts.EXT4_SUPER_BLOCK, c_ext, "ext4_super_block"),
    (layouts.EXT4_GROUP_DESC, c_ext, "ext4_group_desc"),
    (layouts.EXT2_GROUP_DESC, c_ext, "ext2_group_desc"),
    (layouts.EXT4_INODE, c_ext, "ext4_inode"),
    (layouts.XFS_SB, c_xfs, "xfs_sb"),
    (layouts.XFS_DINODE, c_xfs, "xfs_dinode"),
    (layouts.BTRFS_SUPER_BLOCK, c_btrfs, "btrfs_super_block"),
    (layouts.BTRFS_INODE_ITEM, c_btrfs, "btrfs_inode_item"),
    (layouts.BPB, c_fat, "Bpb"),
    (layouts.BPB16, c_fat, "Bpb16"),
    (layouts.BPB32, c_fat, "Bpb32"),
]
# Fields that lie within a field of dissect's: (its field, bytes into it, bytes).
WITHIN = {
    "dev_item_devid": ("dev_item", 0, 8),
    "s_backup_bgs_0": ("s_backup_bgs", 0, 4),
    "s_backup_bgs_1": ("s_backup_bgs", 4, 4),
}


@pytest.mark.parametrize(("layout", "whole", "name"), STRUCTURES, ids=[name for _, _, name in STRUCTURES])
def test_every_field_lies_where_dissect_has_it(layout, whole, name):
    theirs = getattr(whole, name).fields
    assert layout.places
    for field, place in layout.places.items():
        if field in WITHIN:
            outer, offset, size = WITHIN[field]
            assert place == (theirs[outer].offset + offset, size)
        else:
            assert place == (theirs[field].offset, theirs[field].type.size)


@pytest.mark.parametrize(("layout", "whole", "name"), STRUCTURES, ids=[name for _, _, name in STRUCTURES])
def test_values_are_those_that_dissect_reads(layout, whole, name):
    data = bytes((7 * n + n // 256) % 251 for n in range(4096))
    ours, theirs = layout(data), getattr(whole, name)(data)
    for field in layout.places:
        if field not in WITHIN:
            value = getattr(theirs, field)
            found = getattr(ours, field)
            assert found == (value if isinstance(value, int) else bytes(value))


def test_a_structure_that_is_cut_short_is_refused():
    with pytest.raises(EOFError):
        layouts.XFS_SB(bytes(layouts.XFS_SB.size - 1))


def test_a_layout_places_its_fields():
    layout = layouts.Layout("<", 8, "1 uint8 a\n4 uint16 b\n6 char c 2")
    assert vars(layout(struct.pack("<xBxxH2s", 5, 515, b"ok"))) == {"a": 5, "b": 515, "c": b"ok"}


@pytest.mark.parametrize("name", [b"", b"a", b"vmlinuz-6.1.0-30-amd64", bytes(range(256))])
def test_the_hash_of_a_name_in_btrfs_is_dissects(name):
    assert btrfs._name_hash(name) == crc32c.update(1, name) ^ 0xFFFF_FFFF
