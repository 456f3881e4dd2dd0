"""The shared detection decoder: a feature pyramid network and the two towers of FCOS."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.misc import Conv2dNormActivation

from umedpt_lightning.blocks.batch_norm import group_norm
from umedpt_lightning.blocks.encoder import Pyramid
from umedpt_lightning.blocks.shared_block import SharedBlock


@dataclass
class DetectionFeatures:
    """The detection decoder's output.

    Attributes:
        classes: Maps ``(B, channels, H_i, W_i)`` of the class tower, finest first.
        boxes: Maps of the box tower, of the same sizes.
        anchors: ``(sum H_i W_i, 4)``, one square anchor a place, as wide as the stride of its map, pixels.
        size: ``(H, W)`` of the image before padding.
    """

    classes: list[Tensor]
    boxes: list[Tensor]
    anchors: Tensor
    size: tuple[int, int]

    def split(self, sizes: Sequence[int]) -> list[DetectionFeatures]:
        """The features of the first ``sizes[0]`` images, of the next ``sizes[1]``, and so on."""
        classes, boxes = ([torch.split(m, list(sizes)) for m in maps] for maps in (self.classes, self.boxes))
        return [
            DetectionFeatures([m[i] for m in classes], [m[i] for m in boxes], self.anchors, self.size)
            for i in range(len(sizes))
        ]


class DetectionDecoder(SharedBlock):
    """FPN and the class and box towers of FCOS, shared by all detection tasks.

    Args:
        encoder_channels: Channels of each map of the pyramid, finest first.
        strides: Their strides.
        channels: Channels of the FPN and the towers; a multiple of 32.
        convolutions: Convolutions in each tower.
        finest: The finest stride that is used. 4 finds objects of few pixels, 8 is four times faster.

    Raises:
        ValueError: The encoder has no map with stride `finest` or coarser, or two of one stride.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        strides: Sequence[int],
        channels: int = 128,
        convolutions: int = 2,
        finest: int = 8,
    ) -> None:
        super().__init__()
        self.levels = [i for i, stride in enumerate(strides) if stride >= finest]
        if not self.levels:
            raise ValueError(f"the encoder has strides {list(strides)}, none of them {finest} or coarser")
        if len({strides[i] for i in self.levels}) < len(self.levels):
            raise ValueError(
                f"the detection decoder needs strides that grow from map to map, but they are {list(strides)}"
            )
        self.out_channels = channels
        self.fpn = FeaturePyramidNetwork([encoder_channels[i] for i in self.levels], channels, norm_layer=group_norm)
        self.class_tower = _tower(channels, convolutions)
        self.box_tower = _tower(channels, convolutions)
        self.anchor_generator = AnchorGenerator(
            sizes=tuple((strides[i],) for i in self.levels), aspect_ratios=((1.0,),) * len(self.levels)
        )

    def forward(self, pyramid: Pyramid) -> DetectionFeatures:
        """Features of every place of every level, with the anchors."""
        maps = OrderedDict((str(i), pyramid.maps[i]) for i in self.levels)
        merged = list(self.fpn(maps).values())
        # all images of a micro-batch have one size, hence one set of anchors; the generator reads shapes only
        canvas = ImageList(merged[0].new_empty(1, 1, *pyramid.padded_size), [pyramid.padded_size])
        return DetectionFeatures(
            classes=[self.class_tower(m) for m in merged],
            boxes=[self.box_tower(m) for m in merged],
            anchors=self.anchor_generator(canvas, merged)[0].float(),
            size=pyramid.size,
        )


def _tower(channels: int, convolutions: int) -> nn.Sequential:
    tower = nn.Sequential(
        *(Conv2dNormActivation(channels, channels, norm_layer=group_norm) for _ in range(convolutions))
    )
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return tower
