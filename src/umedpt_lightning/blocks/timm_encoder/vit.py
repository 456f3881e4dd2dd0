"""Plain vision transformers of timm as encoders, with a feature pyramid for masks and boxes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from umedpt_lightning.blocks.encoder import EncoderCard, Pyramid, pad_to_multiple
from umedpt_lightning.blocks.lora import has_lora
from umedpt_lightning.blocks.timm_encoder.base import TimmEncoder
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

    Raises:
        ValueError: timm knows no such model, it is no plain vision transformer, has no such embedding, or the file does
            not fit it.
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
        _take_any_size(net)
        self.embedding: Embedding = embedding or _recommended(net)
        if "cls" in self.embedding and not _class_tokens(net):
            raise ValueError(f"encoder.embedding: timm's {name} has no class token. Take `avg`.")
        if self.embedding == "map" and getattr(net, "attn_pool", None) is None:
            raise ValueError(f"encoder.embedding: timm's {name} has no attention pooling. Take `cls` or `avg`.")
        self.strides = _STRIDES
        width = int(net.num_features)
        branches = [_branch(width, self.stride / stride) for stride in _STRIDES]
        self.channels = [channels for _, channels in branches]
        self.pyramid = nn.ModuleList(branch for branch, _ in branches)
        self._finish(lora_rank)

    def extra_repr(self) -> str:
        """What tells it from another with the same layers."""
        return f"embedding={self.embedding}"

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
        tokens = self._checked(images)  # (B, prefix + rows * columns, C)
        patches = tokens[:, int(self.net.num_prefix_tokens) :]  # type: ignore[arg-type]  # an attribute of timm's
        coarse = patches.transpose(1, 2).unflatten(2, (rows, columns))  # (B, C, rows, columns)
        coarse = pad_to_multiple(coarse, _STRIDES[-1] // self.stride)
        padded = (coarse.shape[2] * self.stride, coarse.shape[3] * self.stride)
        return Pyramid([branch(coarse) for branch in self.pyramid], self.strides, size, padded, self._embed(tokens))

    @property
    def _step(self) -> int:
        return self.stride

    def _features(self, images: Tensor) -> Tensor:
        """Final tokens as timm has them, ``(B, N, C)``, those without a place first."""
        net: Any = self.net
        height, width = (side // self.stride * self.patch for side in images.shape[2:])
        if self.patch != self.stride:
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        grid = (height // self.patch, width // self.patch)
        for module in net.modules():
            if isinstance(module, _AnySizeBeitAttention):
                module.grid = grid
                module.fused_attn = not torch.compiler.is_exporting()  # ONNX does not take the fused one with biases
        tokens: Tensor = net.forward_features(images)
        if tokens.ndim != 3 or tokens.shape[1] != int(net.num_prefix_tokens) + grid[0] * grid[1]:
            raise ValueError(f"it gives {tuple(tokens.shape)} for {grid[0]} x {grid[1]} patches")
        return tokens

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


def is_plain_vit(name: str) -> bool:
    """Whether `ViTEncoder` takes a timm model."""
    with torch.device("meta"):  # no numbers are wanted
        return _patch(create_net(name)) is not None


def _patch(net: Any) -> int | None:
    """The side of a patch of a plain vision transformer, pixels; None for another model."""
    strides = {int(stage["reduction"]) for stage in getattr(net, "feature_info", [])}
    plain = len(strides) == 1 and hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks")
    return strides.pop() if plain else None


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


def _take_any_size(net: Any) -> None:
    """Lets BEiT, alone of timm's, take other sizes than it was made for."""
    for module in net.modules():
        if type(module) is BeitAttention and module.window_size is not None:
            module.__class__ = _AnySizeBeitAttention
            net.patch_embed.strict_img_size = False


class _AnySizeBeitAttention(BeitAttention):
    """BEiT's attention whose table of biases is interpolated to the patches of an image.

    Attributes:
        grid: Rows and columns of patches.
    """

    grid: tuple[int, int]

    def _get_rel_pos_bias(self) -> Tensor:
        if self.grid == tuple(self.window_size):
            bias: Tensor = super()._get_rel_pos_bias()
            return bias
        rows, columns = (2 * side - 1 for side in self.window_size)
        table: Tensor = self.relative_position_bias_table
        of_patches = table[:-3].T.reshape(1, -1, rows, columns)  # (1, heads, rows, columns)
        wanted = tuple(2 * side - 1 for side in self.grid)
        of_patches = F.interpolate(of_patches, wanted, mode="bicubic", align_corners=True)
        table = torch.cat([of_patches[0].flatten(1).T, table[-3:]])  # the last are the class token's
        index = gen_relative_position_index(self.grid, device=table.device)
        return table[index].permute(2, 0, 1)[None].contiguous()
