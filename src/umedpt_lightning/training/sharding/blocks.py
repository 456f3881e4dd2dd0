"""The shared blocks of a model, shared out between ranks by torch's ``fully_shard``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from umedpt_lightning.blocks.checkpointing import repeated_blocks
from umedpt_lightning.model import MultiTaskModel


def is_shard(tensor: Tensor) -> bool:
    """Whether each rank has only a part of a tensor."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which may be all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share_out_blocks(model: MultiTaskModel, mesh: DeviceMesh, device: torch.device) -> None:
    """Leaves each rank a part of the parameters of encoder, decoders and other shared blocks; heads stay whole.

    All ranks take over the first rank's values. The blocks of the encoder are put together one at a time, when they are
    used, and what lies around them, and each decoder, as one.

    Args:
        model: The same on all ranks, in place.
        mesh: The ranks, in one dimension.
        device: Where this rank computes.
    """
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return  # by an earlier fit
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        moved = tensor.detach().to(device)
        dist.broadcast(moved, 0)
        tensor.data.copy_(moved)

    def placement(parameter: nn.Parameter) -> Shard:
        """The first dimension that can be cut into equal parts, since a class token has only one row."""
        sides = enumerate(parameter.shape)
        return Shard(next((dim for dim, side in sides if side and side % mesh.size() == 0), 0))

    for block in _shared_blocks(model):
        block.register_forward_hook(_with_own_memory)
        own = type(block).__name__
        # with None torch would keep the outermost one whole after the forward pass
        sharded = fully_shard(block, mesh=mesh, reshard_after_forward=True, shard_placement_fn=placement)
        type(block).__name__ = own  # which a checkpoint has, and not that of torch's class
        sharded.set_gradient_divide_factor(1.0)  # losses are shares of the round's already
        sharded.set_force_sum_reduction_for_comms(True)


def _with_own_memory(block: nn.Module, inputs: Any, output: Any) -> Any:
    """The output without views: torch puts a block together again where the gradients of its outputs arrive.

    Raises:
        TypeError: It is nothing that torch finds tensors in.
    """
    found = []

    def owned(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor.clone() if tensor._is_view() and tensor.requires_grad else tensor

    output = apply_to_collection(output, Tensor, owned)
    if not found:
        raise TypeError(
            f"trainer.strategy sharded: {type(block).__name__} returned a {type(output).__name__}. Return a tensor, or "
            "tensors in lists, dictionaries and dataclasses."
        )
    return output


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """The outer ones first, as torch wants to meet them."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _shared_blocks(model: MultiTaskModel) -> Iterator[nn.Module]:
    """What is shared out, inner ones first."""
    yield from repeated_blocks(model.encoder)
    for block in (model.encoder, model.pooling, model.pixel_decoder, model.detection_decoder, *model.blocks.values()):
        if block is not None and next(block.parameters(), None) is not None:
            yield block


def check_sharding(trainer: pl.Trainer, module: pl.LightningModule, data: object) -> None:
    """Holds that a run can be one whose blocks are shared out: all ranks must do the same in the same order.

    Args:
        trainer: With callbacks and precision.
        module: A `MultiTaskModule`.
        data: Its data module.

    Raises:
        ValueError: It cannot; names the option and the mend.
    """
    model: MultiTaskModel = module.model  # type: ignore[assignment]  # a LightningModule's attributes may be anything
    bags = [name for name in model.tasks if model.task(name).spec.bag]
    callbacks = [type(one).__name__ for one in trainer.callbacks if isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    gradients: object = getattr(module, "gradients", None)
    refused = {
        f"torch {torch.__version__}": (torch.__version__ < "2.14", "Install 2.14 or newer."),
        "data.distribute tasks": (getattr(data, "distribute", "") == "tasks", "Take `samples`."),
        f"the bags of {', '.join(bags)}": (bool(bags), "Leave the task out with --leave_out, or take ddp."),
        "model.pack_pixels": (bool(getattr(gradients, "pack_pixels", 0)), "Leave it at 0."),
        "encoder.channels_last": (not all(p.is_contiguous() for p in model.parameters()), "Leave it out."),
        "model.compile": (bool(getattr(module, "compiled", False)), "Leave it out."),
        f"trainer.callbacks {', '.join(callbacks)}": (bool(callbacks), "Leave it out, or take ddp."),
        "trainer.precision 16-mixed": (trainer.precision == "16-mixed", "Take bf16-mixed."),
    }
    for what, (is_given, mend) in refused.items():
        if is_given:
            raise ValueError(f"trainer.strategy sharded: {what} cannot be used where blocks are shared out. {mend}")
