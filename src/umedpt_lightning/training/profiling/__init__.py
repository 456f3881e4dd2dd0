"""What a round of training and a validation cost."""

from umedpt_lightning.training.profiling.rounds import RoundTimer, TaskCost
from umedpt_lightning.training.profiling.validation import ValidationTimer

__all__ = ["RoundTimer", "TaskCost", "ValidationTimer"]
