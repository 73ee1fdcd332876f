# SPDX-License-Identifier: GPL-3.0-or-later
"""The on-disk structures of the file systems: the fields that the readers use, at their places.

`dissect.cstruct` reads them. The whole definitions in dissect.extfs, .xfs, .btrfs and .fat hold hundreds of structures
and take longer to load than all the rest of the reader, so only these few are defined here; a test compares every
place, type and byte order with dissect's. A structure's size is the least number of bytes it is read from.

Definitions are loaded when they are first asked for; `load_all` does it for all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from dissect.cstruct import cstruct

_FIELD = re.compile(r"(\d+)\s+(uint8|uint16|uint32|uint64|char)\s+(\w+)(?:\[(\d+)\])?")
_SIZES = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "char": 1}


def _structure(name: str, size: int, fields: str) -> str:
    """The definition of a structure of `size` bytes from lines of "OFFSET TYPE NAME[COUNT]", in order of offset."""
    place = 0
    body = []
    for offset, kind, field, count in _fields(fields):
        if offset > place:
            body.append(f"char _{place}[{offset - place}];")
        body.append(f"{kind} {field}{f'[{count}]' if count else ''};")
        place = offset + _SIZES[kind] * (count or 1)
    if size > place:
        body.append(f"char _{place}[{size - place}];")
    return f"struct {name} {{ {' '.join(body)} }};\n"


def _fields(text: str) -> Iterable[tuple[int, str, str, int]]:
    for line in text.strip().splitlines():
        match = _FIELD.fullmatch(line.strip())
        assert match is not None, line
        yield int(match[1]), match[2], match[3], int(match[4] or 0)


@functools.cache
def ext() -> cstruct:
    """Linux' fs/ext4/ext4.h; little-endian."""
    return cstruct(endian="<").load(
        _structure(
            "ext4_super_block",
            1024,
            """
        0 uint32 s_inodes_count
        4 uint32 s_blocks_count_lo
        20 uint32 s_first_data_block
        24 uint32 s_log_block_size
        28 uint32 s_log_cluster_size
        32 uint32 s_blocks_per_group
        40 uint32 s_inodes_per_group
        76 uint32 s_rev_level
        88 uint16 s_inode_size
        92 uint32 s_feature_compat
        96 uint32 s_feature_incompat
        100 uint32 s_feature_ro_compat
        104 char s_uuid[16]
        120 char s_volume_name[16]
        254 uint16 s_desc_size
        260 uint32 s_first_meta_bg
        336 uint32 s_blocks_count_hi
        588 uint32 s_backup_bgs[2]
        """,
        )
        + _structure(
            "ext4_group_desc",
            64,
            """
        8 uint32 bg_inode_table_lo
        40 uint32 bg_inode_table_hi
        """,
        )
        + _structure("ext2_group_desc", 32, "8 uint32 bg_inode_table_lo")
        + _structure(
            "ext4_inode",
            160,
            """
        0 uint16 i_mode
        4 uint32 i_size_lo
        32 uint32 i_flags
        40 char i_block[60]
        108 uint32 i_size_high
        128 uint16 i_extra_isize
        """,
        )
    )


@functools.cache
def xfs() -> cstruct:
    """Linux' fs/xfs/libxfs/xfs_format.h; big-endian."""
    return cstruct(endian=">").load(
        _structure(
            "xfs_sb",
            264,
            """
        4 uint32 sb_blocksize
        32 char sb_uuid[16]
        56 uint64 sb_rootino
        84 uint32 sb_agblocks
        88 uint32 sb_agcount
        100 uint16 sb_versionnum
        104 uint16 sb_inodesize
        108 char sb_fname[12]
        120 uint8 sb_blocklog
        122 uint8 sb_inodelog
        123 uint8 sb_inopblog
        124 uint8 sb_agblklog
        192 uint8 sb_dirblklog
        216 uint32 sb_features_incompat
        """,
        )
        + _structure(
            "xfs_dinode",
            176,
            """
        0 uint16 di_magic
        2 uint16 di_mode
        4 uint8 di_version
        5 uint8 di_format
        24 uint64 di_big_nextents
        56 uint64 di_size
        76 uint32 di_big_anextents
        82 uint8 di_forkoff
        90 uint16 di_flags
        120 uint64 di_flags2
        152 uint64 di_ino
        """,
        )
    )


@functools.cache
def btrfs() -> cstruct:
    """Linux' include/uapi/linux/btrfs_tree.h; little-endian. `dev_item_devid` is the first field of `dev_item`."""
    return cstruct(endian="<").load(
        _structure(
            "btrfs_super_block",
            4096,
            """
        32 char fsid[16]
        80 uint64 root
        88 uint64 chunk_root
        144 uint32 sectorsize
        148 uint32 nodesize
        160 uint32 sys_chunk_array_size
        188 uint64 incompat_flags
        198 uint8 root_level
        199 uint8 chunk_root_level
        201 uint64 dev_item_devid
        299 char label[256]
        811 char sys_chunk_array[2048]
        """,
        )
        + _structure(
            "btrfs_inode_item",
            160,
            """
        16 uint64 size
        52 uint32 mode
        """,
        )
    )


@functools.cache
def fat() -> cstruct:
    """Microsoft's "FAT: General Overview of On-Disk Format"; little-endian. `Bpb16` and `Bpb32` follow `Bpb`."""
    return cstruct(endian="<").load(
        _structure(
            "Bpb",
            36,
            """
        11 uint16 BPB_BytsPerSec
        13 uint8 BPB_SecPerClus
        14 uint16 BPB_RsvdSecCnt
        16 uint8 BPB_NumFATs
        17 uint16 BPB_RootEntCnt
        19 uint16 BPB_TotSec16
        21 uint8 BPB_Media
        22 uint16 BPB_FATSz16
        32 uint32 BPB_TotSec32
        """,
        )
        + _structure(
            "Bpb16",
            26,
            """
        3 uint32 BS_VolID
        7 uint8 BS_VolLab[11]
        """,
        )
        + _structure(
            "Bpb32",
            54,
            """
        0 uint32 BPB_FATSz32
        8 uint32 BPB_RootClus
        31 uint32 BS_VolID
        35 uint8 BS_VolLab[11]
        """,
        )
    )


def load_all() -> None:
    """Loads every definition, so that processes forked from this one have them."""
    for load in (ext, xfs, btrfs, fat):
        load()
