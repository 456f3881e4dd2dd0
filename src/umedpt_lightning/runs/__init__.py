"""A run: its folder, its checkpoints, and the Trainer that it is trained with."""

from umedpt_lightning.runs.fit import fit

__all__ = ["fit"]
