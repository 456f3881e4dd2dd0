"""A sweep of `umedpt transfer` in Weights & Biases."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def log_sweep(folder: Path, name: str, config: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> None:
    """Logs a sweep's table, page and pictures in a W&B run of its own.

    With ``WANDB_MODE=offline`` it waits for ``wandb sync``.

    Args:
        folder: The sweep's, with ``results.csv`` and ``report.html``.
        name: The project, or ``ENTITY/PROJECT``.
        config: What the sweep was asked for.
        pictures: By name.

    Raises:
        ValueError: W&B does not take it; the message is W&B's.
    """
    import wandb

    entity, _, project = name.rpartition("/")
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    try:
        with wandb.init(
            entity=entity or None, project=project, job_type="transfer", dir=folder, config=dict(config)
        ) as run:
            run.log({"results": wandb.Table(columns=[*head], data=rows)})
            run.log({"report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"))})
            run.log({f"pictures/{title}": wandb.Image(picture) for title, picture in pictures.items()})
    except (wandb.Error, ValueError) as error:
        raise ValueError(f"--wandb: {error}") from error
