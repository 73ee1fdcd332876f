# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor runs to start the launcher: ``python -I .../domward/helpers/start_launcher.py``, channel as fd 3.

An isolated interpreter looks for modules where the system's are and nowhere else, and a package may keep domward's out
of there (Debian's: /usr/lib/domward). So this finds the package that it lies in itself.
"""

import gc
import os.path
import sys

gc.disable()  # until all is loaded: none of it is garbage

_HOME = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
if _HOME not in sys.path:
    sys.path.insert(0, _HOME)

from domward.helpers.launcher import main  # noqa: E402  # found through the path that was set above

os._exit(main())  # without taking every module apart
