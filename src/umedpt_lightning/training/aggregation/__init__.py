"""What looks at a round's gradients task by task, and balances them."""

from umedpt_lightning.training.aggregation.balance import ExactBalance, SketchBalance
from umedpt_lightning.training.aggregation.base import GradientAggregator
from umedpt_lightning.training.aggregation.gram import Gram

__all__ = ["ExactBalance", "GradientAggregator", "Gram", "SketchBalance"]
