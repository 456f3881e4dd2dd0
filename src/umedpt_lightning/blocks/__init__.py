"""The blocks all tasks share, one a file."""

from umedpt_lightning.blocks.bag import BAG, BagBlock, BagTransformer, GatedAttention, MeanBag
from umedpt_lightning.blocks.batch_norm import BatchNormMode
from umedpt_lightning.blocks.checkpointing import checkpoint_blocks
from umedpt_lightning.blocks.detection_decoder import DetectionDecoder, DetectionFeatures
from umedpt_lightning.blocks.encoder import BaseEncoder, EncoderCard, Pyramid, pad_to_multiple
from umedpt_lightning.blocks.pixel_decoder import PixelDecoder
from umedpt_lightning.blocks.plain_encoder import as_encoder
from umedpt_lightning.blocks.pooling import Pooling
from umedpt_lightning.blocks.shared_block import SharedBlock
from umedpt_lightning.blocks.timm_encoder import Encoder, ViTEncoder

__all__ = [
    "BAG",
    "BagBlock",
    "BagTransformer",
    "BaseEncoder",
    "BatchNormMode",
    "DetectionDecoder",
    "DetectionFeatures",
    "Encoder",
    "EncoderCard",
    "GatedAttention",
    "MeanBag",
    "PixelDecoder",
    "Pooling",
    "Pyramid",
    "SharedBlock",
    "ViTEncoder",
    "as_encoder",
    "checkpoint_blocks",
    "pad_to_multiple",
]
