"""Models as folders that can be given away: how they are described, written and read."""

from umedpt_lightning.pretrained.construction import model_arguments, model_config
from umedpt_lightning.pretrained.folder import PretrainedModel
from umedpt_lightning.pretrained.loading import SavedModel, read_saved_model

__all__ = ["PretrainedModel", "SavedModel", "model_arguments", "model_config", "read_saved_model"]
