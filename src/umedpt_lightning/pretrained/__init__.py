"""Models as folders that can be given away: how they are described, written and read."""

from umedpt_lightning.pretrained.construction import build, describe
from umedpt_lightning.pretrained.encoder_state import timm_state
from umedpt_lightning.pretrained.folder import PretrainedModel

__all__ = ["PretrainedModel", "build", "describe", "timm_state"]
