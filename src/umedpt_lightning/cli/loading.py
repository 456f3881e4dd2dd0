"""The device that a command names."""

from __future__ import annotations

import torch


def device_of(name: str) -> str:
    """The device that ``--device`` names; ``auto`` is a GPU where there is one.

    Raises:
        ValueError: It cannot be used here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise ValueError(
            f"--device {name} cannot be used here ({error!s:.200}). Give cpu, cuda, cuda:1 or auto."
        ) from error
    return name
