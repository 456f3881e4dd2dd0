"""The encoder of a model's folder for plain timm: its weights under timm's names, and the lines that load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks.timm_encoder.weights import create_net


def plain_state(name: str, in_channels: int, net: nn.Module, model_args: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of the whole timm model without its classifier, as far as a feature extractor has it.

    Args:
        name: The timm model.
        in_channels: Channels that it takes.
        net: Its feature extractor, or itself without a classifier.
        model_args: Further options of the model.

    Returns:
        Tensors by the names of ``timm.create_model(name)``.

    Raises:
        ValueError: The names of the feature extractor are not those of the whole model.
    """
    with torch.device("meta"):  # only names and shapes are wanted
        whole = create_net(name, in_chans=in_channels, **model_args).state_dict()
    # a feature extractor writes stages_0 for stages.0, and some have all of it under `model.`
    names = {key.replace(".", "_"): key for key in whole}
    state = {}
    for key, value in net.state_dict().items():
        whole_key = names.get(key.removeprefix("model.").replace(".", "_"))
        if whole_key is None or whole[whole_key].shape != value.shape:
            raise ValueError(f"timm's {name} has no tensor like {key} of its feature extractor.")
        state[whole_key] = value.contiguous()
    return state


def loading_text(
    name: str, in_channels: int, batch_norm: str, model_args: Mapping[str, Any], made: str = "features_only=True"
) -> str:
    """How the encoder is had without this package, Markdown.

    Args:
        name: The timm model.
        in_channels: Channels that it takes.
        batch_norm: What became of BatchNorm.
        model_args: Further options of the model.
        made: The option that makes what is here.
    """
    if batch_norm not in ("keep", "freeze"):
        return (
            f"Its BatchNorm was replaced (`{batch_norm}`), so that plain timm cannot load the encoder; take "
            "`model.encoder`."
        )
    args = "".join(f", {key}={value!r}" for key, value in model_args.items())
    begin = f'net = timm.create_model("{name}", in_chans={in_channels}{args}'
    if in_channels in (1, 3):
        lines = f'{begin}, {made}, pretrained=True, pretrained_cfg_overlay={{"file": "encoder.safetensors"}})'
    else:  # timm would leave out a first layer of other channels, without a word
        lines = f'{begin}, num_classes=0)\nnet.load_state_dict(load_file("encoder.safetensors"), strict=False)'
    return (
        "The encoder alone, in plain timm (intensities scaled to 0 to 1, then its mean and standard deviation):\n\n"
        f"```python\n{lines}\n```"
    )
