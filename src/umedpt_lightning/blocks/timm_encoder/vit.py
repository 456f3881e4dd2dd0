"""Plain vision transformers of timm as encoders, with a feature pyramid for masks and boxes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from umedpt_lightning.blocks.encoder import EncoderCard, Pyramid, pad_to_multiple
from umedpt_lightning.blocks.lora import has_lora
from umedpt_lightning.blocks.timm_encoder.base import TimmEncoder
from umedpt_lightning.blocks.timm_encoder.beit import AnySizeBeitAttention, take_any_size
from umedpt_lightning.blocks.timm_encoder.plain import loading_text, plain_state
from umedpt_lightning.blocks.timm_encoder.weights import create_net

#: What the embedding of an image is: the class token, the mean of its patches, both beside each other, or what the
#: model's own attention pooling gives (SigLIP).
Embedding = Literal["cls", "avg", "cls+avg", "map"]
_STRIDES = [4, 8, 16, 32]


class ViTEncoder(TimmEncoder):
    """A plain vision transformer of timm with a simple feature pyramid: maps of stride 4, 8, 16 and 32.

    ViT, DeiT, DINOv2 and v3 (registers too), BEiT, EVA, CLIP, SigLIP and others. The pyramid is that of Li et al.,
    *Exploring plain vision transformer backbones for object detection*, ECCV 2022, without its last convolutions, in
    whose place the decoders have theirs.

    Images of any size are padded to whole tokens, and position embeddings are interpolated. Where the side of a patch
    is no power of two, as 14 pixels, the image is resampled so that a token is the next one, 16 pixels, of the image as
    it is given: 224 pixels become 196.

    Args:
        name: A timm model whose tokens keep one stride.
        in_channels: Channels it takes. Images with one channel are repeated to that number.
        weights: As for `Encoder`.
        embedding: What the embedding is; None for what timm's model gives its own classifier.
        drop_path_rate: Stochastic depth.
        checkpointing: Keep the inputs of blocks alone in training, and compute the rest again in the backward pass.
        model_args: Further options of the timm model.
        mean: Of a pixel (0..1); None for that of the weights.
        std: Likewise.
        lora_rank: Of adapters of the attention layers, which alone learn then with the pyramid; 0 for none.
        depths: The blocks, counted from 1, whose tokens the maps of stride 4, 8, 16 and 32 are made of; None for the
            last block in all.

    Raises:
        ValueError: timm knows no such model, it is no plain vision transformer, has no such embedding or blocks, or the
            file does not fit it.
        FileNotFoundError: `weights` names no file.
        ConnectionError: The weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str = "vit_small_patch16_224",
        in_channels: int = 3,
        weights: Literal["timm"] | Path | None = None,
        embedding: Embedding | None = None,
        drop_path_rate: float = 0.0,
        checkpointing: bool = False,
        model_args: dict[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        lora_rank: int = 0,
        depths: Sequence[int] | None = None,
    ) -> None:
        options: dict[str, Any] = {"num_classes": 0}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        super().__init__(options, name, in_channels, weights, model_args, mean, std, checkpointing)
        net: Any = self.net
        if (patch := _patch(net)) is None:
            raise ValueError(
                f"timm's {name} is no plain vision transformer. Take it as class_path: Encoder, or another model here, "
                "such as vit_small_patch16_224, vit_small_patch14_dinov2 or beitv2_base_patch16_224."
            )
        self.patch = patch
        self.stride: int = 2 ** math.ceil(math.log2(self.patch))
        if not 4 <= self.stride <= 32:
            raise ValueError(f"timm's {name} has patches of {self.patch} pixels. Take one with patches of 4 to 32.")
        take_any_size(net)
        self.embedding: Embedding = embedding or _recommended(net)
        if "cls" in self.embedding and not _class_tokens(net):
            raise ValueError(f"encoder.embedding: timm's {name} has no class token. Take `avg`.")
        if self.embedding == "map" and getattr(net, "attn_pool", None) is None:
            raise ValueError(f"encoder.embedding: timm's {name} has no attention pooling. Take `cls` or `avg`.")
        self.depths = _checked_depths(depths, name, net)
        self.strides = _STRIDES
        width = int(net.num_features)
        branches = [_branch(width, self.stride / stride) for stride in _STRIDES]
        self.channels = [channels for _, channels in branches]
        self.pyramid = nn.ModuleList(branch for branch, _ in branches)
        self._finish(lora_rank)

    def extra_repr(self) -> str:
        """What tells it from another with the same layers."""
        return f"embedding={self.embedding}" + (f", depths={self.depths}" if self.depths else "")

    @property
    def embedding_channels(self) -> int:
        """Width of the tokens, for both beside each other twice that."""
        width: Any = self.net.num_features
        return int(width) * len(self.embedding.split("+"))

    @property
    def neck(self) -> nn.Module:
        """The pyramid."""
        return self.pyramid

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        """The feature pyramid, and the embedding, for which no token counts that holds padding only.

        Args:
            images: ``(B, C, H, W)`` float, normalised, of any size.
            task: Not asked for.

        Returns:
            Maps of the images padded below and to the right to multiples of 32: with zeros (the mean) to whole tokens,
            and then their maps with zeros.
        """
        size = (images.shape[2], images.shape[3])
        images = pad_to_multiple(images, self.stride)
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens, patches = self._checked(images)  # (B, prefix + rows * columns, C), and (B, rows * columns, C) each
        coarse = [
            pad_to_multiple(of_map.transpose(1, 2).unflatten(2, (rows, columns)), _STRIDES[-1] // self.stride)
            for of_map in patches
        ]  # (B, C, rows, columns)
        padded = (coarse[0].shape[2] * self.stride, coarse[0].shape[3] * self.stride)
        maps = [branch(of_map) for branch, of_map in zip(self.pyramid, coarse * (4 // len(coarse)), strict=True)]
        return Pyramid(maps, self.strides, size, padded, self._embed(tokens))

    @property
    def _step(self) -> int:
        return self.stride

    def _features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Final tokens as timm has them, ``(B, N, C)``, those without a place first, and the patches of each map."""
        net: Any = self.net
        height, width = (side // self.stride * self.patch for side in images.shape[2:])
        if self.patch != self.stride:
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        grid = (height // self.patch, width // self.patch)
        for module in net.modules():
            if isinstance(module, AnySizeBeitAttention):
                module.grid = grid
                module.fused_attn = not torch.compiler.is_exporting()  # ONNX does not take the fused one with biases
        prefix, patches = int(net.num_prefix_tokens), list[Tensor]()
        tokens: Tensor
        if self.depths:
            blocks = [depth - 1 for depth in self.depths]
            tokens, found = net.forward_intermediates(images, [*dict.fromkeys(blocks)], norm=True, output_fmt="NLC")
            of_block = dict(zip(sorted(set(blocks)), found, strict=True))
            patches = [of_block[block] for block in blocks]
        else:
            tokens = net.forward_features(images)
        if tokens.ndim != 3 or tokens.shape[1] != prefix + grid[0] * grid[1]:
            raise ValueError(f"it gives {tuple(tokens.shape)} for {grid[0]} x {grid[1]} patches")
        return tokens, patches or [tokens[:, prefix:]]

    def _embed(self, tokens: Tensor) -> Tensor:
        net: Any = self.net
        patches = tokens[:, net.num_prefix_tokens :]
        vectors = []
        for part in self.embedding.split("+"):
            match part:
                case "cls":
                    vectors.append(tokens[:, : _class_tokens(net)].mean(1))
                case "avg":
                    vectors.append(patches.mean(1))
                case _:
                    vectors.append(net.attn_pool(patches))
        norm = getattr(net, "fc_norm", None) or nn.Identity()  # the last norm of those that are averaged first
        return torch.cat([norm(vector) for vector in vectors], 1)

    def parts_to_compile(self) -> list[nn.Module]:
        """The blocks."""
        super().parts_to_compile()
        blocks: Any = self.net.blocks
        return list(blocks)

    def parameter_stages(self) -> list[list[tuple[str, nn.Parameter]]]:
        """All before the first block, each block, and all behind the last with the pyramid."""
        stages: list[list[tuple[str, nn.Parameter]]] = [[]]
        names: list[str] = [""]
        for name, parameter in self.named_parameters():
            block = re.match(r"net\.blocks\.\d+\.", name)
            key = block[0] if block else "" if names == [""] else "last"
            if key != names[-1]:
                names.append(key)
                stages.append([])
            stages[-1].append((name, parameter))
        return stages

    @property
    def exports_any_size(self) -> bool:
        """Not with position embeddings that are resampled to the image's size."""
        return False

    @property
    def image_size(self) -> tuple[int, int]:
        """The size that gives as many tokens as timm's model was made for."""
        size = getattr(getattr(self.net, "patch_embed", None), "img_size", None) or super().image_size
        height, width = (int(side) // self.patch * self.stride for side in size)
        return height, width

    def plain_state(self) -> dict[str, Tensor] | None:
        """Its state by the names of ``timm.create_model(name)``, without the pyramid; None with adapters in it."""
        return None if has_lora(self) else plain_state(self.name, self.in_channels, self.net, self.model_args)

    def card(self) -> EncoderCard:
        """The timm name, and how plain timm loads ``encoder.safetensors``."""
        text = loading_text(self.name, self.in_channels, "keep", self.model_args, "num_classes=0")
        return EncoderCard(self.name, ("timm",), text)


@functools.cache  # a model is made to find out, and a sweep asks for each cell
def is_plain_vit(name: str) -> bool:
    """Whether `ViTEncoder` takes a timm model."""
    with torch.device("meta"):  # no numbers are wanted
        return _patch(create_net(name)) is not None


def _patch(net: Any) -> int | None:
    """The side of a patch of a plain vision transformer, pixels; None for another model."""
    strides = {int(stage["reduction"]) for stage in getattr(net, "feature_info", [])}
    plain = len(strides) == 1 and hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks")
    return strides.pop() if plain else None


def _checked_depths(depths: Sequence[int] | None, name: str, net: Any) -> tuple[int, ...]:
    """The blocks that maps are made of, none for the last.

    Raises:
        ValueError: There are no such blocks.
    """
    found, blocks = tuple(depths or ()), len(net.blocks)
    if found and not hasattr(net, "forward_intermediates"):
        raise ValueError(f"encoder.depths: timm's {name} gives the tokens of its last block only. Take depths out.")
    if found and (len(found) != len(_STRIDES) or not all(1 <= depth <= blocks for depth in found)):
        mend = [max(1, round(blocks * part / 4)) for part in (1, 2, 3, 4)]
        raise ValueError(
            f"encoder.depths: {list(found)} should be four blocks of the {blocks} that timm's {name} has, counted from "
            f"1, for the maps of stride 4, 8, 16 and 32. Write {mend}, say."
        )
    return found


def _branch(width: int, scale: float) -> tuple[nn.Module, int]:
    """What makes a map of another stride from the tokens' map, and its channels."""
    if scale <= 1:
        factor = int(1 / scale)
        return nn.MaxPool2d(factor) if factor > 1 else nn.Identity(), width
    layers: list[nn.Module] = []
    for _ in range(int(math.log2(scale))):
        if layers:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    return nn.Sequential(*layers), width


def _class_tokens(net: Any) -> int:
    """How many of the first tokens stand for the image: one, two where it was distilled, or none."""
    if getattr(net, "cls_token", None) is None:
        return 0
    return 1 + (getattr(net, "dist_token", None) is not None)


def _recommended(net: Any) -> Embedding:
    pooling = getattr(net, "global_pool", "")
    if pooling == "map":
        return "map"
    return "cls" if _class_tokens(net) and pooling in ("token", "") else "avg"
