"""What tasks may be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def check_task_names(with_data: Mapping[str, Any], with_options: Mapping[str, Any], where: str = "model.tasks") -> None:
    """Holds that tasks have usable names, and that none has options without data.

    Raises:
        ValueError: Naming the key and the mend.
    """
    if not with_data:
        raise ValueError("There is no task: describe one under data.tasks.<name>.")
    for name in with_data:
        if not isinstance(name, str):
            kind = type(name).__name__
            raise ValueError(f"data.tasks: {name!r} is a {kind} in YAML, but names are texts. Put it in quotes.")
        if "." in name or "/" in name or hasattr(nn.ModuleDict, name) or not name:
            raise ValueError(
                f"data.tasks: {name!r} cannot name a task: no dot, no slash, no attribute of a torch module. Rename it."
            )
    unknown = [name for name in with_options if name not in with_data]
    if unknown:
        raise ValueError(
            f"{where}.{unknown[0]}: there are no data for a task of that name. Known from data.tasks: "
            f"{', '.join(with_data)}. Rename it, describe its data under data.tasks.{unknown[0]}, or remove it."
        )
