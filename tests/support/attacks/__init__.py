# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on a host from inside a process that a guest has taken over, and what runs them there.

One attack is one short function; its first line says what the attacker wants. `table` has them all, with what is
expected to stop each; `attacker` is what they run on. Both are loaded into confined helpers, into pygrub and into
bubblewrap's sandbox, by the interpreter that is there: nothing here imports domward or pytest.
"""
