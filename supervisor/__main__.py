# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m domward.supervisor`` is the `domward` command."""

import sys

from .command import main

sys.exit(main())
