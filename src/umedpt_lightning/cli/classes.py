"""Classes of one's own that are named on the command line."""

from __future__ import annotations

import importlib


def find_class(path: str) -> type:
    """The class that ``--classes`` names.

    Args:
        path: ``package.module.Class``.

    Raises:
        ImportError: There is no such module.
        ValueError: There is no such class.
    """
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    if not isinstance(found, type):
        raise ValueError(f"--classes: {path} is no class. Write package.module.Class.")
    return found
