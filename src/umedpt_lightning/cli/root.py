"""What ``${root}`` stands for in a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def fill_root(value: Any, root: str) -> Any:
    """Replaces ``${root}`` in strings and paths, in place where `value` is a Namespace; ``~`` is the home folder."""
    root = os.path.expanduser(root)
    match value:
        case Path():
            return Path(fill_root(str(value), root))
        case str():
            return value.replace("${root}", root)
        case list() | tuple():
            return type(value)(fill_root(item, root) for item in value)
        case dict():
            return {key: fill_root(item, root) for key, item in value.items()}
        case Namespace():
            for key, item in vars(value).items():
                setattr(value, key, fill_root(item, root))
    return value
