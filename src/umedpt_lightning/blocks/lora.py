"""Low-rank adapters of attention layers, by ``peft``: Hu et al., *LoRA*, ICLR 2022."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from umedpt_lightning.io.atomic import atomic_write

if TYPE_CHECKING:
    from umedpt_lightning.blocks.encoder import BaseEncoder

#: The projections before and behind attention, by timm's names.
_TARGETS = r".*attn\.(qkv|q_proj|k_proj|v_proj|proj|out_proj)"
_PART = ".lora_"
#: In files of adapters, the first weights of each layer that one is beside: ``(layers, 4)``.
_BASE = "base_values"


def add_lora(encoder: BaseEncoder, rank: int) -> None:
    """Adds adapters that change nothing yet; of the encoder they alone learn from then on, with its `neck`.

    Args:
        encoder: The encoder, in place.
        rank: Of the adapters, at least 1.

    Raises:
        ImportError: ``peft`` is not installed.
        ValueError: The encoder has no attention that it finds, or adapters already.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be 1 or more, but it is {rank}.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"LoRA needs another package ({error}): pip install 'umedpt-lightning[lora]'.") from error
    if has_lora(encoder):
        raise ValueError("the encoder has adapters already: merge_lora takes them into its weights.")
    modules: Iterator[Any] = encoder.modules()
    for module in modules:
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # else BEiT and EVA read the weights alone, past the adapter
    try:
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS), encoder)
    except ValueError as error:  # peft's, where nothing matches
        raise ValueError(
            f"{encoder.card().name} has no attention layers called attn.qkv and attn.proj, which LoRA could adapt. "
            "Take a vision transformer or a Swin, or train the encoder without."
        ) from error
    if "lora_rank" in getattr(encoder, "hparams", {}):
        encoder.hparams["lora_rank"] = rank
    train_lora_alone(encoder)


def has_lora(encoder: nn.Module) -> bool:
    """Whether it has adapters."""
    return any(_PART in name for name, _ in encoder.named_parameters())


def train_lora_alone(encoder: BaseEncoder) -> None:
    """Lets adapters and neck learn, and nothing else of the encoder."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_PART in name)
    if encoder.neck is not None:
        encoder.neck.requires_grad_(True)


def merge_lora(encoder: BaseEncoder) -> None:
    """Takes the adapters into the weights, in place: the encoder is one without adapters that computes the same."""
    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if hasattr(child, "lora_A"):
                layer: Any = child
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    if "lora_rank" in getattr(encoder, "hparams", {}):
        encoder.hparams["lora_rank"] = 0
    encoder.requires_grad_(True)
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config


def save_lora(encoder: BaseEncoder, file: Path) -> None:
    """Writes the adapters alone, as safetensors, with a few numbers of their base by which it is known again.

    Raises:
        ValueError: There are none.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items() if _PART in name}
    if not state:
        raise ValueError("the encoder has no adapters.")
    state[_BASE] = _base_values(encoder.state_dict(), state)
    with atomic_write(file) as unfinished:
        save_file(state, unfinished, metadata={"format": "pt", "base": encoder.card().name})


def load_lora(encoder: BaseEncoder, file: Path) -> None:
    """Puts adapters that `save_lora` wrote onto an encoder with the same base; `merge_lora` then takes them in.

    Raises:
        ValueError: They are of another encoder, or of other weights than it has.
    """
    with safe_open(file, framework="pt") as content:
        state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # no mapping
        base = (content.metadata() or {}).get("base")
    ranks = [len(value) for name, value in state.items() if ".lora_A." in name]
    if not ranks or base != encoder.card().name:
        raise ValueError(f"{file} has adapters of {base}, but the encoder is {encoder.card().name}.")
    own_values = _base_values(encoder.state_dict(), state)
    values = state.pop(_BASE, own_values)
    if own_values.shape != values.shape or not torch.allclose(own_values, values, rtol=1e-2, atol=1e-4):  # halves too
        raise ValueError(
            f"{file} has adapters of other weights of {base} than the encoder has. Give the encoder as `weights` those "
            "that they were trained on."
        )
    add_lora(encoder, ranks[0])
    own = {name for name in encoder.state_dict() if _PART in name}
    if own != state.keys():
        raise ValueError(f"{file} has other adapters than the encoder, first {min(own ^ state.keys())}.")
    encoder.load_state_dict(state, strict=False)


def _base_values(state: Mapping[str, Tensor], adapters: Iterable[str]) -> Tensor:
    """The first weights of each layer that has an adapter, or is to have one."""
    layers = [name.partition(f"{_PART}A.")[0] for name in sorted(adapters) if f"{_PART}A." in name]
    weights = [state.get(f"{layer}.base_layer.weight", state.get(f"{layer}.weight")) for layer in layers]
    found = [weight.detach().flatten()[:4].float().cpu() for weight in weights if weight is not None]
    return torch.stack(found) if found else torch.zeros(0, 4)
