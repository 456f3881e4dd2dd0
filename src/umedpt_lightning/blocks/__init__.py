"""The blocks all tasks share, one a file."""

from umedpt_lightning.blocks.batch_norm import BatchNormMode
from umedpt_lightning.blocks.detection_decoder import DetectionDecoder, DetectionFeatures
from umedpt_lightning.blocks.encoder import Encoder, Pyramid
from umedpt_lightning.blocks.pixel_decoder import PixelDecoder
from umedpt_lightning.blocks.pooling import Pooling

__all__ = ["BatchNormMode", "DetectionDecoder", "DetectionFeatures", "Encoder", "PixelDecoder", "Pooling", "Pyramid"]
