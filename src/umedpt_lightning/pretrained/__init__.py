"""Models as folders that can be given away: how they are described, written and read."""

from umedpt_lightning.pretrained.construction import model_arguments, model_config
from umedpt_lightning.pretrained.encoder_state import timm_state
from umedpt_lightning.pretrained.folder import PretrainedModel

__all__ = ["PretrainedModel", "model_arguments", "model_config", "timm_state"]
