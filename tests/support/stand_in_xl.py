# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that does as xl(1) does, in a folder instead of on a hypervisor, for machines that have none.

    xl = stand_in_xl(folder)

Its one domain has the number 7. In the folder: `domain` while it is there (its UUID), `shut` with a reason once it is
shut down, `dying` while it cannot go away, `calls` with each call's words, `config`, `kernel` and `fds` of the last
create. It fails at what `fails` names, and waits in create for as long as there is `waits`.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOMID = 7
_PROGRAM = r"""
import os, re, sys, time
from pathlib import Path

folder, words = Path(__file__).parent, sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(words) + "\n")
if (folder / "fails").exists() and (folder / "fails").read_text() == words[0]:
    print(f"libxl: error: the stand-in was told to fail at {words[0]}", file=sys.stderr)
    sys.exit(3)
domain = folder / "domain"
match words[0]:
    case "create":
        (folder / "fds").write_text(" ".join(sorted(fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2)))
        text = Path(words[-1]).read_text()
        (folder / "config").write_text(text)
        settings = dict(line.split("=", 1) for line in text.splitlines())
        plain = lambda value: re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), value.strip('"'))
        (folder / "kernel").write_bytes(Path(plain(settings["kernel"])).read_bytes())
        domain.write_text(plain(settings["uuid"]))
        while (folder / "waits").exists():
            time.sleep(0.01)
    case "list":
        print("Name                   ID   Mem VCPUs\tState\tTime(s)   UUID   Reason-Code\tSecurity Label")
        print("Domain-0                0  1024     1     r-----   34.0 00000000-0000-0000-0000-000000000000   -   -")
        if domain.exists():
            shut = (folder / "shut").read_text() if (folder / "shut").exists() else ""
            state = f"---{'s' if shut else '-'}{'-rscw'[int(shut or 0)]}{'d' if (folder / 'dying').exists() else '-'}"
            print(f"a guest       7    64     1     {state}    0.5 {domain.read_text()}  {shut or '-':>8}   -")
    case "destroy":
        domain.unlink()
"""


def stand_in_xl(folder: Path) -> Path:
    """The program, made in `folder`."""
    program = folder / "xl"
    program.write_text(f"#!{sys.executable}\n{_PROGRAM}")
    program.chmod(0o755)
    return program
