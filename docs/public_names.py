"""The names that `import umedpt_lightning` offers, in the order of its stub, for mkdocstrings to document."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import umedpt_lightning

STUB = Path(__file__).parents[1] / "src" / "umedpt_lightning" / "__init__.pyi"
#: Headings by the subpackage that a name comes from.
HEADINGS = {
    "runs": "Training",
    "training": "Training",
    "model": "Models",
    "inference": "Inference",
    "data": "Data",
    "labels": "Label kinds",
    "tasks": "Tasks",
    "blocks": "Blocks",
    "types": "What travels",
}


def public_names() -> str:
    """A heading a subpackage, with a directive of mkdocstrings for each of its names."""
    groups: dict[str, list[str]] = {heading: [] for heading in HEADINGS.values()}
    for part, path in _imports():
        groups.setdefault(HEADINGS.get(part, part.capitalize()), []).append(f"::: {path}")
    return "\n\n".join(f"## {heading}\n\n" + "\n\n".join(paths) for heading, paths in groups.items() if paths)


def _imports() -> Iterator[tuple[str, str]]:
    """The subpackage and the whole name of all that the stub imports."""
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                offered: Any = getattr(umedpt_lightning, alias.name)
                # where it is defined: a function and its module may have one name
                place = getattr(offered, "__module__", f"umedpt_lightning.{node.module}")
                yield node.module.partition(".")[0], f"{place}.{alias.name}"
