"""A folder as an artifact of Weights & Biases."""

from __future__ import annotations

from pathlib import Path


def log_artifact(folder: Path, name: str) -> None:
    """Logs a model's folder in a W&B run of its own; with ``WANDB_MODE=offline`` it waits for ``wandb sync``.

    Args:
        folder: The folder.
        name: ``NAME``, or ``PROJECT/NAME``.

    Raises:
        ValueError: W&B does not take it; the message is W&B's.
    """
    import wandb

    project, _, name = name.rpartition("/")
    try:
        with wandb.init(project=project or None, job_type="export", dir=folder.parent) as run:
            artifact = wandb.Artifact(name, type="model")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
    except (wandb.Error, ValueError) as error:
        raise ValueError(f"--wandb_artifact: {error}") from error
