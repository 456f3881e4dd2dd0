"""Models of timm as encoders; all that is known of timm and of its families is in here."""

from umedpt_lightning.blocks.timm_encoder.encoder import Encoder

__all__ = ["Encoder"]
