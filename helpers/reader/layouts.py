# SPDX-License-Identifier: GPL-3.0-or-later
"""The on-disk structures of the file systems: the fields that the readers use, at their places.

Dissect's whole definitions (dissect.extfs, .xfs, .btrfs, .fat) hold hundreds of structures and take longer to load than
all the rest of the reader, and dissect.cstruct alone as long as a third of it, on every cold start; so these few
are unpacked with `struct`. A test compares every place, size and byte order with dissect's definitions.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace

_CODES = {"uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "char": "s"}


class Layout:
    """A structure of `size` bytes. `fields` has a line "OFFSET TYPE NAME" or "OFFSET char NAME COUNT" for each field.

    `order` is "<" or ">". `places` maps each field to (offset, bytes).
    """

    def __init__(self, order: str, size: int, fields: str) -> None:
        self.order = order
        self.size = size
        self.places: dict[str, tuple[int, int]] = {}
        end = 0
        format_ = order
        for line in fields.strip().splitlines():
            offset, kind, name, *count = line.split()
            code = (count[0] if count else "") + _CODES[kind]
            format_ += f"{int(offset) - end}x{code}"
            self.places[name] = (int(offset), struct.calcsize(order + code))
            end = int(offset) + self.places[name][1]
        self._struct = struct.Struct(format_)

    def __call__(self, untrusted_data: bytes) -> SimpleNamespace:
        """The fields of the structure at the start of `untrusted_data`. Raises EOFError where that is too short."""
        if len(untrusted_data) < self.size:
            raise EOFError
        return SimpleNamespace(**dict(zip(self.places, self._struct.unpack_from(untrusted_data), strict=True)))


# Linux' fs/ext4/ext4.h.
EXT4_SUPER_BLOCK = Layout(
    "<",
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
    104 char s_uuid 16
    120 char s_volume_name 16
    254 uint16 s_desc_size
    260 uint32 s_first_meta_bg
    336 uint32 s_blocks_count_hi
    588 uint32 s_backup_bgs_0
    592 uint32 s_backup_bgs_1
    """,
)
EXT4_GROUP_DESC = Layout(
    "<",
    64,
    """
    8 uint32 bg_inode_table_lo
    40 uint32 bg_inode_table_hi
    """,
)
EXT2_GROUP_DESC = Layout(
    "<",
    32,
    """
    8 uint32 bg_inode_table_lo
    """,
)
EXT4_INODE = Layout(
    "<",
    160,
    """
    0 uint16 i_mode
    4 uint32 i_size_lo
    32 uint32 i_flags
    40 char i_block 60
    108 uint32 i_size_high
    128 uint16 i_extra_isize
    """,
)

# Linux' fs/xfs/libxfs/xfs_format.h.
XFS_SB = Layout(
    ">",
    264,
    """
    4 uint32 sb_blocksize
    32 char sb_uuid 16
    56 uint64 sb_rootino
    84 uint32 sb_agblocks
    88 uint32 sb_agcount
    100 uint16 sb_versionnum
    104 uint16 sb_inodesize
    108 char sb_fname 12
    120 uint8 sb_blocklog
    122 uint8 sb_inodelog
    123 uint8 sb_inopblog
    124 uint8 sb_agblklog
    192 uint8 sb_dirblklog
    216 uint32 sb_features_incompat
    """,
)
XFS_DINODE = Layout(
    ">",
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

# Linux' include/uapi/linux/btrfs_tree.h; `dev_item_devid` is the first field of `dev_item`.
BTRFS_SUPER_BLOCK = Layout(
    "<",
    4096,
    """
    32 char fsid 16
    80 uint64 root
    88 uint64 chunk_root
    144 uint32 sectorsize
    148 uint32 nodesize
    160 uint32 sys_chunk_array_size
    188 uint64 incompat_flags
    198 uint8 root_level
    199 uint8 chunk_root_level
    201 uint64 dev_item_devid
    299 char label 256
    811 char sys_chunk_array 2048
    """,
)
BTRFS_INODE_ITEM = Layout(
    "<",
    160,
    """
    16 uint64 size
    52 uint32 mode
    """,
)

# Microsoft's "FAT: General Overview of On-Disk Format"; `BPB16` and `BPB32` follow `BPB`.
BPB = Layout(
    "<",
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
BPB16 = Layout(
    "<",
    26,
    """
    3 uint32 BS_VolID
    7 char BS_VolLab 11
    """,
)
BPB32 = Layout(
    "<",
    54,
    """
    0 uint32 BPB_FATSz32
    8 uint32 BPB_RootClus
    31 uint32 BS_VolID
    35 char BS_VolLab 11
    """,
)
