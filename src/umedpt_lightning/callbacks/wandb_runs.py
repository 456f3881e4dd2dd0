"""Runs of Weights & Biases for what is no training: a model's folder, a sweep; offline they wait for ``wandb sync``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def log_artifact(folder: Path, name: str) -> None:
    """Logs a model's folder as the artifact ``NAME`` or ``PROJECT/NAME``; raises ValueError where W&B refuses it."""
    import wandb

    project, _, name = name.rpartition("/")
    try:
        with wandb.init(project=project or None, job_type="export", dir=folder.parent) as run:
            artifact = wandb.Artifact(name, type="model")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
    except (wandb.Error, ValueError) as error:
        raise ValueError(f"--wandb_artifact: {error}") from error


def log_sweep(folder: Path, name: str, config: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> None:
    """Logs the table, the page and the pictures of a sweep of `umedpt transfer`.

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
