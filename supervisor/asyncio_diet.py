# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a program of ours load `asyncio` without what asyncio loads and no program of ours uses: a third of its time.

asyncio can do without the module ssl, and says so. It names the module `inspect` everywhere and uses it for coroutines
made by generators, and for handlers of signals, none of which is here; so that is loaded when it is first asked for.
A library must not do this to its host, so only programs call it.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Later(ModuleType):
    """Stands where a module would, until one of the module's own names is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import machinery looks whether there is one
            raise AttributeError(name)
        del sys.modules[self.__name__]
        module = __import__(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


def begin_diet() -> None:
    """Before anything of asyncio is loaded."""
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # None: loading it raises ImportError
    sys.modules.setdefault("inspect", _Later("inspect"))
