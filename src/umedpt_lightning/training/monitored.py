"""Checks before training that callbacks wait for metrics that will be there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from lightning.pytorch.callbacks import Callback


def check_monitors(callbacks: Iterable[Callback], known: Collection[str]) -> None:
    """Holds that what callbacks monitor is among the metrics that validation gives.

    Args:
        callbacks: Early stopping, checkpoints and the like.
        known: Names of all metrics of validation.

    Raises:
        ValueError: Naming callback, metric and those that are alike.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val/") and monitor not in known:
            alike = difflib.get_close_matches(monitor, known, n=3, cutoff=0.0)
            raise ValueError(
                f"{type(callback).__name__} monitors {monitor}, but there will be no such metric. Alike are "
                f"{', '.join(alike)}; for each task that has a val part there is val/<task>/<metric>."
            )
