"""How near vision transformers here are to timm's own, and how little of one LoRA trains."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch

from umedpt_lightning.blocks import ViTEncoder
from umedpt_lightning.blocks.lora import merge_lora, save_lora

#: With patches of 16 and 14 pixels, class and register tokens, and two kinds of places.
NETWORKS = ("vit_small_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224")


def measure(quick: bool = False) -> dict[str, float]:
    """Of whole models with random weights, at the size that they were made for."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return {"encoders.vit_token_error": max(map(_token_error, NETWORKS)), **_lora()}


def _token_error(name: str) -> float:
    """The largest difference of a token from timm's, for the same pixels."""
    encoder = ViTEncoder(name, model_args={"depth": 4}).eval()
    theirs = timm.create_model(name, num_classes=0, depth=4).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    image = torch.rand(1, 3, *encoder.image_size)
    seen = image
    if encoder.patch != encoder.stride:
        size = theirs.patch_embed.img_size
        seen = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    expected, patches = theirs.forward_features(seen), encoder(image).maps[2].flatten(2).mT
    rows, columns = theirs.patch_embed.grid_size
    height, width = (-(-side // 32) * 2 for side in encoder.image_size)
    patches = patches.unflatten(1, (height, width))[:, :rows, :columns].flatten(1, 2)
    return float((patches - expected[:, theirs.num_prefix_tokens :]).abs().max())


def _lora() -> dict[str, float]:
    """Of ViT-S at rank 8."""
    encoder = ViTEncoder("vit_small_patch16_224", lora_rank=8).eval()
    of_net = [(name, parameter.numel()) for name, parameter in encoder.net.named_parameters()]
    adapters = sum(count for name, count in of_net if ".lora_" in name)
    for name, parameter in encoder.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_lora(encoder, file := Path(folder) / "adapter.safetensors")
        size = file.stat().st_size
    image = torch.rand(1, 3, 224, 224)
    unmerged = encoder(image).embedding
    merge_lora(encoder)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    return {
        "encoders.lora_trainable_share": adapters / (sum(count for _, count in of_net) - adapters),
        "encoders.lora_merged_error": float((encoder(image).embedding - unmerged).abs().max()),
        "encoders.lora_file_share": size / (4 * weights),
    }
