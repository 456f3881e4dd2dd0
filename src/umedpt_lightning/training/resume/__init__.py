"""Going on with a run whose config may have changed: checkpoint and config are compared before anything is restored."""

from umedpt_lightning.training.resume.init_from import init_from
from umedpt_lightning.training.resume.resumption import Resumption

__all__ = ["Resumption", "init_from"]
