"""From images as they are stored to batches, without the libraries that training reads them with."""

from umedpt_lightning.inference.images import Image, read, stacks
from umedpt_lightning.inference.resize import resize

__all__ = ["Image", "read", "resize", "stacks"]
