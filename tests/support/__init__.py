# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests share: guest disks made with the real tools, the leak check, and a view through the kernel's own eyes."""
