"""Models of timm as encoders; all that is known of timm and of its families is in here."""

from umedpt_lightning.blocks.timm_encoder.encoder import Encoder
from umedpt_lightning.blocks.timm_encoder.vit import Embedding, ViTEncoder, is_plain_vit

__all__ = ["Embedding", "Encoder", "ViTEncoder", "is_plain_vit"]
