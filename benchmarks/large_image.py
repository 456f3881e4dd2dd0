"""How much memory the prediction of a large image takes, and how far tiles are from the whole image."""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.layers import GlobalResponseNormMlp
from torch import Tensor, nn

from benchmarks.processes import in_fresh_process, peak_rss
from umedpt_lightning.blocks import Encoder, PixelDecoder
from umedpt_lightning.blocks.whole_image_layers import whole_image_layers
from umedpt_lightning.cli import main
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.tiles.grid import Tile, TileBlender
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import MaskSpec

_TASK = "regions"
_CUT = 1408  # smaller than what is usual, so that the whole image can be seen in a short time


def memory(quick: bool = False) -> dict[str, float]:
    """Peak RSS of `umedpt predict` with masks for a JPEG in colour of 10,000 x 10,000 pixels."""
    side = 10_000
    with tempfile.TemporaryDirectory() as folder:
        _model("test_convnext", channels=3).save_pretrained(Path(folder) / "model")
        Image.fromarray(_image(side, channels=3)).save(Path(folder) / "large.jpg", quality=90)
        peak = in_fresh_process(_peak, folder)
    return {"predict.peak_gib_10000_pixels": peak / 1024}


def _peak(folder: str) -> float:
    torch.set_num_threads(2)  # memory is measured, not time
    main(["predict", "--model", f"{folder}/model", "--inputs", f"{folder}/large.jpg", "--out", f"{folder}/out"])
    return peak_rss()


def tiles(quick: bool = False) -> dict[str, float]:
    """The largest difference of a class probability between tiles, cut as by `umedpt predict`, and the whole image."""
    torch.set_num_threads(1)
    image = _image(1600, channels=1)[:300]  # no multiple of Swin's windows
    return {
        f"predict.tiles_difference_{key}": _difference(_model(name, channels=1), image)
        for key, name in (
            ("swin_t", "swin_tiny_patch4_window7_224"),
            ("resnet18", "resnet18"),
            ("efficientnet_lite0", "efficientnet_lite0"),
            ("efficientnet_b0", "efficientnet_b0"),
            ("convnextv2_atto", "convnextv2_atto"),
        )
    }


def _difference(model: MultiTaskModel, image: NDArray[np.uint8]) -> float:
    head = model.task(_TASK)
    with torch.inference_mode():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        whole = head.exported(model(batch, _TASK))["probabilities"][0]
    if whole.std() < 0.1:
        raise ValueError("A model that says the same everywhere shows no difference.")
    blended = torch.zeros_like(whole)

    def add(self: TileBlender, tile: Tile, found: Tensor) -> None:
        weights = tile.down.weights()[:, None] * tile.across.weights()
        blended[:, tile.down.shown, tile.across.shown] += found * weights

    with patch.object(TileBlender, "add", add), warnings.catch_warnings():
        warnings.simplefilter("error")  # tiles that are too small
        tiling = PredictOptions().tiling(model, _TASK, _CUT)
        if len(tiling.grid(*image.shape[:2])) == 1:
            raise ValueError("An image of a single tile shows no difference.")
        TiledTask(model, _TASK, tiling).predict(ArrayPixels(image, 1))
    return float((blended - whole).abs().max())


def _model(encoder: str, channels: int) -> MultiTaskModel:
    """With random weights, but sure of itself, as if it were trained."""
    torch.manual_seed(0)
    spec = MaskSpec(channels=channels, classes=("background", "one", "other"))
    decoder = partial(PixelDecoder, channels=16)
    blocks = as_if_trained(Encoder(encoder, in_channels=channels))
    model = MultiTaskModel(blocks, {_TASK: spec}, pixel_decoder=decoder).eval()
    with torch.no_grad():
        model.task(_TASK).head.weight *= 3  # type: ignore[operator,union-attr]
    return model


def as_if_trained(encoder: Encoder) -> Encoder:
    """The encoder with layers that all do something: some begin with zeros, or nearly."""
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any():
            nn.init.ones_(layer.weight)
        if isinstance(layer, GlobalResponseNormMlp):
            layer.fc1.reset_parameters()
            layer.fc2.reset_parameters()
    for each in whole_image_layers(encoder, encoder.whole_image_layer):
        if not isinstance(each.layer, nn.GroupNorm):
            for parameter in each.layer.parameters():
                nn.init.normal_(parameter, std=0.5)
    return encoder


def _image(side: int, channels: int) -> NDArray[np.uint8]:
    """Fields of 192 pixels that differ in brightness, with structures of several sizes."""
    rng = np.random.default_rng(0)
    image = np.zeros((side, side, channels), np.float32)
    for size, strength in ((192, 120), (48, 60), (8, 40)):
        coarse = rng.random((side // size + 2, side // size + 2, channels), dtype=np.float32)
        image += strength * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR).reshape(image.shape)
    return image.astype(np.uint8)
