"""A run: its folder, its checkpoints, the Trainer that it is trained with, and the model that comes of it."""

from umedpt_lightning.runs.export import export_run
from umedpt_lightning.runs.fit import fit

__all__ = ["export_run", "fit"]
