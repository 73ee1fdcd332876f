# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootloader programs for tests, and the words that a shell script needs to be one."""

from __future__ import annotations

from pathlib import Path

# Finds $output, $dir and $disk among a bootloader's words, as libxl gives them.
WORDS = """
for word; do
  case "$word" in
    --output=*) output=${word#*=} ;;
    --output-directory=*) dir=${word#*=} ;;
  esac
  disk=$word
done
"""
# Copies the first 4096 bytes of the disk as the kernel, and the next as the ramdisk.
DELIVERS = """
dd if="$disk" of="$dir/kernel" bs=4096 count=1 2>/dev/null
dd if="$disk" of="$dir/ramdisk" bs=4096 skip=1 count=1 2>/dev/null
printf 'kernel %s\\0ramdisk %s\\0args from a script\\0\\0' "$dir/kernel" "$dir/ramdisk" > "$output"
"""


def script(path: Path, text: str) -> Path:
    """A shell script at `path` that finds its words and then does `text`."""
    path.write_text(f"#!/bin/sh\n{WORDS}{text}\n")
    path.chmod(0o755)
    return path
