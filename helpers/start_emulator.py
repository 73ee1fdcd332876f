# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor runs to start a guest's emulator: ``python -I .../domward/helpers/start_emulator.py ORDER``.

As `start_launcher`, it finds the package that it lies in itself.
"""

import os.path
import sys

_HOME = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
if _HOME not in sys.path:
    sys.path.insert(0, _HOME)

from domward.helpers.emulator import main  # noqa: E402  # found through the path that was set above

sys.exit(main(sys.argv[1:]))
