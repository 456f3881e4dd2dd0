"""Activation checkpointing: less memory for one more forward pass.

Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv:1604.06174 (2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def checkpoint_blocks(net: nn.Module) -> int:
    """Lets the blocks of a network keep their input alone in training, and compute the rest again in the backward pass.

    Names of parameters and buffers stay as they are. Random numbers are the same in both computations, and running
    statistics of BatchNorm move once.

    Returns:
        How many blocks that are; with 0 nothing has changed.
    """
    blocks = list(repeated_blocks(net)) or [
        child for child in net.children() if _layers(child) > 1
    ]  # else whole stages
    blocks = blocks[:-1]  # the backward pass starts with the last: what it would forget is needed at once
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)  # a module around it would rename its parameters
    return len(blocks)


def _forward(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)

    def compute(*args: Any, **kwargs: Any) -> Any:
        # HRNet's blocks write into the list that they are given
        return forward(*(list(arg) if isinstance(arg, list) else arg for arg in args), **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still(block)

    return checkpoint(compute, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Lets the running statistics of BatchNorm move aside; they are those from before when it is over."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers |= {name: buffer.clone() for name, buffer in norm._buffers.items() if buffer is not None}
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers |= buffers


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in lists and sequences that are more than a single layer."""
    for child in module.children():
        if isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS) and _layers(child) > 1:
            yield child
        else:
            yield from repeated_blocks(child)


def _layers(module: nn.Module) -> int:
    """Modules with parameters of their own."""
    return sum(next(m.parameters(recurse=False), None) is not None for m in module.modules())
