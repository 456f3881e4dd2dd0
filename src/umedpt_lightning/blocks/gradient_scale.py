"""Features whose gradient is multiplied on its way back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from umedpt_lightning.types import map_leaves


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(features: Any, factor: float) -> Any:
    """The same features; what comes back through them is multiplied with a factor."""

    def scale(tensor: Tensor) -> Tensor:
        scaled: Tensor = _Scale.apply(tensor, factor)
        return scaled

    return map_leaves(features, lambda tensor: scale(tensor) if tensor.requires_grad else tensor)
