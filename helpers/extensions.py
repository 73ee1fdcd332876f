# SPDX-License-Identifier: GPL-3.0-or-later
"""Loads the compiled half of a package without the Python half, which loads modules that the launcher has no use for.

setproctitle's loads `logging` to tell its developers something, zstandard's loads `platform` to choose between its
implementations.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType


def extension(package: str, name: str) -> ModuleType:
    """The compiled module `name` of `package`. Raises ImportError where either is not installed."""
    parent = PathFinder.find_spec(package)
    places = parent.submodule_search_locations if parent is not None else None
    found = PathFinder.find_spec(f"{package}.{name}", places) if places else None
    if found is None or found.loader is None:
        raise ImportError(f"There is no module {package}.{name}.", name=package)
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module
