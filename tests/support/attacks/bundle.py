# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs the attacks into one file that the system's Python runs, and that needs nothing beside it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_MAIN = "import sys\nfrom attacks.program_side import main\nsys.exit(main())\n"
INTERPRETER = "/usr/bin/python3"


def bundle(path: Path) -> Path:
    """Writes the bundle to `path`, executable by everybody."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", _MAIN)
        for module in Path(__file__).parent.glob("*.py"):
            archive.writestr(f"attacks/{module.name}", module.read_bytes())
    path.write_bytes(f"#!{INTERPRETER} -I\n".encode() + packed.getvalue())
    path.chmod(0o755)
    return path
