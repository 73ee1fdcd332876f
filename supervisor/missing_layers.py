# SPDX-License-Identifier: GPL-3.0-or-later
"""The one decision about a layer that this kernel lacks: refused, unless it is named as optional."""

from __future__ import annotations

from collections.abc import Collection

from domward.protocol.errors import ConfinementUnavailable
from domward.protocol.layers import LOST_WITHOUT, Layer


def require_optional(missing: Collection[Layer], optional: Collection[Layer]) -> None:
    """Raises ConfinementUnavailable where `missing` has a layer that is not among the `optional` ones."""
    needed = sorted(set(missing) - set(optional), key=lambda layer: layer.value)
    if needed:
        raise ConfinementUnavailable(
            f"This kernel lacks {needed[0].value}: {LOST_WITHOUT[needed[0]]}.",
            advice=f"Use a newer kernel, or name {', '.join(layer.value for layer in needed)} as optional.",
        )
