# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole guest disks, the way distributions lay them out.

    debian_disk("xfs", scheme="gpt", separate_boot=True)     # real kernel and initrd, grub-mkconfig's own grub.cfg
    fedora_disk("ext4")                                      # blscfg: grub.cfg, entries in loader/entries, grubenv
    extlinux_disk("vfat")                                    # extlinux.conf

Each takes `kernel=DebianKernel(...)`, by default the real one; `small_kernel(folder)` makes files of a few KiB that
are quicker to copy where the content does not matter. `expected(...)` is what domward should deliver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.debian_kernel import DebianKernel, debian_kernel
from support.disks import Disk, Fs, Grub, Part
from support.grub import grubenv
from support.trees import Directory, Symlink, Tree

OLDER = "5.10.0-9-amd64"


def small_kernel(folder: Path, version: str = "6.1.0-99-amd64", kib: int = 64) -> DebianKernel:
    """Two files with a kernel's and an initrd's first bytes and `kib` KiB of text that tells offsets apart."""
    body = b"".join(b"%015x\n" % at for at in range(0, kib * 1024, 16))
    vmlinuz, initrd = folder / f"vmlinuz-{version}", folder / f"initrd.img-{version}"
    header = bytearray(body)
    header[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"  # Linux' boot protocol: the header's mark
    vmlinuz.write_bytes(bytes(header))
    initrd.write_bytes(b"\x1f\x8b" + body[::-1])
    return DebianKernel(version, vmlinuz, initrd)


def debian_boot(kernel: DebianKernel, older: bool = True) -> dict[str, Any]:
    """The files of /boot, with a second, older kernel (the same bytes) unless `older` is False."""
    tree: dict[str, Any] = {
        f"vmlinuz-{kernel.version}": kernel.vmlinuz,
        f"initrd.img-{kernel.version}": kernel.initrd,
        f"config-{kernel.version}": "CONFIG_XEN=y\n",
        "grub": Directory(),
    }
    if older:
        tree |= {f"vmlinuz-{OLDER}": b"MZ older kernel" * 100, f"initrd.img-{OLDER}": b"\x1f\x8b older initrd" * 100}
    return tree


def debian_root(kernel: DebianKernel) -> dict[str, Any]:
    """Some of what a Debian root file system has besides /boot."""
    return {
        "etc/hostname": "guest\n",
        "etc/debian_version": "12.5\n",
        "etc/os-release": Symlink("../usr/lib/os-release"),
        "usr/lib/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n',
        "vmlinuz": Symlink(f"boot/vmlinuz-{kernel.version}"),
        "initrd.img": Symlink(f"boot/initrd.img-{kernel.version}"),
        "var/log": Directory(),
        "proc": Directory(),
        "boot": Directory(),
    }


def debian_disk(
    kind: str = "ext4",
    *,
    scheme: str = "mbr",
    separate_boot: bool | str = False,
    logical: bool = False,
    kernel: DebianKernel | None = None,
    older: bool = True,
    grub: Grub | None = None,
    extra: Tree | None = None,
    populate: str = "mkfs",
    image: str = "raw",
    convert: tuple[str, ...] = (),
) -> Disk:
    """A Debian guest whose root is of `kind`; `separate_boot` True or the kind of file system that /boot shall be.

    vfat has no symbolic links, so it can only be a separate /boot. `extra` are further files of the root.
    """
    kernel = kernel or debian_kernel()
    boot, root = debian_boot(kernel, older), debian_root(kernel)
    root_fs = Fs(kind, {}, label="guestroot", populate=populate)
    fstab = f"UUID={root_uuid(kind)} / {kind} errors=remount-ro 0 1\n"
    root_fs = replace(root_fs, uuid=root_uuid(kind))
    grub = grub or Grub()
    if not separate_boot:
        root |= {f"boot/{name}": entry for name, entry in boot.items()} | dict(extra or {})
        root["etc/fstab"] = fstab
        return Disk(scheme, (Part(replace(root_fs, tree=root), logical),), image, convert, grub)
    boot_kind = kind if separate_boot is True else separate_boot
    filled = "mkfs" if boot_kind == "vfat" else populate  # not every kernel can mount vfat
    boot_fs = Fs(boot_kind, boot, mount="/boot", uuid=root_uuid(boot_kind, "1"), populate=filled)
    root |= dict(extra or {})
    root["etc/fstab"] = fstab + f"UUID={boot_fs.uuid} /boot {boot_kind} defaults 0 2\n"
    parts = (Part(boot_fs), Part(replace(root_fs, tree=root), logical))
    return Disk(scheme, parts, image, convert, grub)


def root_uuid(kind: str, salt: str = "0") -> str:
    """A fixed UUID, as blkid would print it for this kind of file system."""
    return f"5EED-000{salt}" if kind == "vfat" else f"5eed0000-0000-4000-8000-00000000000{salt}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the default entry of a guest delivers."""

    kernel: bytes
    ramdisk: bytes
    args: str


def expected(disk: Disk, kernel: DebianKernel | None = None) -> Expected:
    """The kernel, ramdisk and command line of the default entry of `debian_disk` (default settings)."""
    kernel = kernel or debian_kernel()
    index = disk.index_of("/")
    assert index is not None, "a guest has a root"
    fs = disk.parts[index].fs
    assert fs is not None, "index_of gives parts that have one"
    args = f"root=UUID={fs.identity()} ro console=hvc0 quiet"
    return Expected(kernel.vmlinuz.read_bytes(), kernel.initrd.read_bytes(), args)


FEDORA_GRUB_CFG = """#
# DO NOT EDIT THIS FILE
#
set pager=1

if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi

if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi

export menuentry_id_option

if [ "${prev_saved_entry}" ]; then
  set saved_entry="${prev_saved_entry}"
  save_env saved_entry
  set prev_saved_entry=
  save_env prev_saved_entry
  set boot_once=true
fi

function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}

function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}

terminal_output console
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=5
else
  set timeout=5
fi
### BEGIN /etc/grub.d/10_linux ###
insmod part_@PARTMAP@
insmod ext2
set root='@DRIVE@'
if [ x$feature_platform_search_hint = xy ]; then
  search --no-floppy --fs-uuid --set=root --hint='@DRIVE@'  @BOOT_UUID@
else
  search --no-floppy --fs-uuid --set=root @BOOT_UUID@
fi
if [ -z "${kernelopts}" ]; then
  set kernelopts="root=UUID=@ROOT_UUID@ ro "
fi

insmod increment
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  if [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then
    set default=1
    set boot_counter=-1
  else
    decrement boot_counter
  fi
  save_env boot_counter
fi

# The blscfg command parses the BootLoaderSpec files stored in /boot/loader/entries and
# populates the boot menu.
insmod blscfg
blscfg
### END /etc/grub.d/10_linux ###
"""


def fedora_disk(
    kind: str = "ext4",
    *,
    scheme: str = "gpt",
    separate_boot: bool = True,
    kernel: DebianKernel | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path,
) -> Disk:
    """A Fedora guest: `blscfg` with two entries, the newer first; `environment` goes into grubenv.

    `folder` takes the grubenv file until the disk is built.
    """
    kernel = kernel or debian_kernel()
    machine, newer = "0123456789abcdef0123456789abcdef", "6.8.5-301.fc40.x86_64"
    older = "6.6.9-200.fc39.x86_64"
    block = folder / "grubenv"
    grubenv(block, **({"saved_entry": f"{machine}-{newer}"} | dict(environment or {})))
    scheme_map = {"disk": "", "mbr": "msdos", "gpt": "gpt"}[scheme]
    words = {
        "@PARTMAP@": scheme_map,
        "@DRIVE@": f"hd0,{scheme_map}1" if scheme_map else "hd0",
        "@ROOT_UUID@": root_uuid(kind),
        "@BOOT_UUID@": root_uuid(kind, "1") if separate_boot else root_uuid(kind),
    }
    text = FEDORA_GRUB_CFG
    for word, value in words.items():
        text = text.replace(word, value)
    prefix = "" if separate_boot else "/boot"
    boot: dict[str, Any] = {
        f"vmlinuz-{newer}": kernel.vmlinuz,
        f"initramfs-{newer}.img": kernel.initrd,
        f"vmlinuz-{older}": b"MZ older kernel" * 100,
        f"initramfs-{older}.img": b"\x1f\x8b older initrd" * 100,
        "grub2/grub.cfg": text,
        "grub2/grubenv": block,
    }
    for version in (newer, older):
        boot[f"loader/entries/{machine}-{version}.conf"] = (
            f"title Fedora Linux ({version}) 40 (Server Edition)\nversion {version}\n"
            f"linux {prefix}/vmlinuz-{version}\ninitrd {prefix}/initramfs-{version}.img $tuned_initrd\n"
            f"options root=UUID={root_uuid(kind)} ro console=hvc0 $tuned_params\n"
            "grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class fedora\n"
        )
    root: dict[str, Any] = {"etc/fedora-release": "Fedora release 40 (Forty)\n", "etc/machine-id": machine + "\n"}
    if separate_boot:
        root["etc/fstab"] = f"UUID={root_uuid(kind, '1')} /boot {kind} defaults 1 2\n"
        root["boot"] = Directory()
        boot_fs = Fs(kind, boot, mount="/boot", uuid=root_uuid(kind, "1"))
        return Disk(scheme, (Part(boot_fs), Part(Fs(kind, root, uuid=root_uuid(kind)))))
    root |= {f"boot/{name}": entry for name, entry in boot.items()}
    return Disk(scheme, (Part(Fs(kind, root, uuid=root_uuid(kind))),))


def extlinux_disk(kind: str = "ext4", *, scheme: str = "disk", kernel: DebianKernel | None = None) -> Disk:
    """A guest with /boot/extlinux/extlinux.conf (vfat: /extlinux/extlinux.conf), a default and a rescue label."""
    kernel = kernel or debian_kernel()
    config = (
        "# made by hand\nDEFAULT linux\nTIMEOUT 50\nPROMPT 1\nMENU TITLE Boot menu\n\n"
        "LABEL linux\n  MENU LABEL Linux (default)\n  LINUX ../vmlinuz\n  INITRD ../initrd.img\n"
        "  APPEND root=/dev/xvda1 ro console=hvc0\n\n"
        "LABEL rescue\n  MENU LABEL Linux (rescue)\n  KERNEL ../vmlinuz\n"
        "  APPEND initrd=../initrd.img root=/dev/xvda1 single\n"
    )
    prefix = "" if kind == "vfat" else "boot/"
    tree: dict[str, Any] = {
        f"{prefix}vmlinuz": kernel.vmlinuz,
        f"{prefix}initrd.img": kernel.initrd,
        f"{prefix}extlinux/extlinux.conf": config,
    }
    return Disk(scheme, (Part(Fs(kind, tree)),))
