"""The encoder's weights under the names that plain timm gives them."""

from __future__ import annotations

import timm
import torch
from torch import Tensor

from umedpt_lightning.blocks import Encoder


def timm_state(encoder: Encoder) -> dict[str, Tensor] | None:
    """The state of the whole timm model without its classifier, as far as a feature extractor has it.

    Args:
        encoder: Any encoder.

    Returns:
        Tensors by the names of ``timm.create_model(name)``; None where plain timm has no such layers, because
        BatchNorm was replaced.

    Raises:
        ValueError: The names of the feature extractor are not those of the whole model.
    """
    if encoder.batch_norm in ("group", "per_task"):
        return None
    name = encoder.hparams["name"]
    with torch.device("meta"):  # only names and shapes are wanted
        whole = timm.create_model(name, in_chans=encoder.in_channels).state_dict()
    # a feature extractor writes stages_0 for stages.0, and some have all of it under `model.`
    names = {key.replace(".", "_"): key for key in whole}
    state = {}
    for key, value in encoder.net.state_dict().items():
        whole_key = names.get(key.removeprefix("model.").replace(".", "_"))
        if whole_key is None or whole[whole_key].shape != value.shape:
            raise ValueError(f"timm's {name} has no tensor like {key} of its feature extractor.")
        state[whole_key] = value.contiguous()
    return state
