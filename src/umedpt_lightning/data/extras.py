"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str, what: object) -> Any:
    """The module of that name.

    Raises ImportError, which names the `extra` of this package that installs it, and `what` is read with it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what}: this is read with {module.partition('.')[0]}, which is not installed ({error}). Install it with: "
            f'pip install "umedpt-lightning[{extra}]"'
        ) from error
