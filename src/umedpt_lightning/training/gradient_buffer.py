"""All gradients in one flat tensor, which is zeroed, exchanged, normed and clipped as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from umedpt_lightning.training.ranks import explained_loss_of_ranks, several_ranks

_ALIGNMENT = 16  # bytes; kernels of optimizers read four float32 at once where a tensor begins at a multiple of it
_ROW = 256  # elements whose squares are added up before the sums of rows are


class RoundBuffer(ABC):
    """The gradients of a round: zeroed, exchanged, normed and clipped as a whole, however they are kept."""

    @property
    @abstractmethod
    def shared(self) -> GradientBuffer:
        """What has the gradients of the shared blocks, for those who look at them task by task."""

    @abstractmethod
    def zero(self) -> None:
        """Begins a round: to this, backward passes add."""

    @abstractmethod
    def exchange(self, others: Sequence[Tensor] = ()) -> list[Tensor]:
        """Ends a round: sums over all ranks, in place.

        Args:
            others: Small tensors that travel with the gradients, of the same shapes on every rank.

        Returns:
            The sums of `others` over all ranks, in their own dtypes.

        Raises:
            RuntimeError: Another rank is gone, or has not answered in time.
        """

    @abstractmethod
    def norm(self) -> Tensor:
        """The 2-norm of all gradients together, a scalar; not finite where any of them is not."""

    @abstractmethod
    def multiply(self, factor: Tensor) -> None:
        """Multiplies all gradients with a scalar, in place."""


class GradientBuffer(RoundBuffer):
    """One flat tensor (one a device and dtype) of which the gradient of every trainable parameter is a view.

    `zero` begins a round, backward passes add to the views, `exchange` ends it. A parameter that no pass has reached on
    any rank is then without a gradient, so that the optimizer passes it over: neither weight decay nor momentum moves
    it.

    Args:
        parameters: All that may be trained, by name. They may be moved, cast, frozen and thawed between rounds.
        room: Elements of what may travel with the gradients, at most.

    Attributes:
        flats: ``(N,)`` each; one a device and dtype. Gaps between views are zero.
        gradients: The views by parameter name, each with its parameter's shape and strides.
        is_part: Whether this rank has a part of each gradient, which backward passes sum over the ranks.
    """

    is_part = False

    def __init__(self, parameters: Mapping[str, nn.Parameter], room: int = 0) -> None:
        self.flats: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._room = room
        # of the layout: which parameters were trainable, those, their views and where these are in memory
        self._flags: list[bool] = []
        self._trainable: list[nn.Parameter] = []
        self._views: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._addresses: list[int] = []
        # behind the gradients of the first flat tensor, for what travels with them
        self._tail = torch.empty(0)
        self._versions: list[int] = []

    @property
    def shared(self) -> GradientBuffer:
        """This one, which has the heads' gradients too."""
        return self

    def zero(self) -> None:
        """Begins a round: every trainable parameter has a gradient of zeros."""
        flags = [parameter.requires_grad for parameter in self._parameters]
        # moving or casting a module gives its gradients other memory
        if flags != self._flags or [view.data_ptr() for view in self._views] != self._addresses:
            self._lay_out(flags)
        for flat in self.flats:
            flat.zero_()
        try:
            self._attach()
        except RuntimeError:  # parameters without gradients were moved or cast
            self._lay_out(flags)
            self._attach()
        self._versions = [view._version for view in self._views]

    def exchange(self, others: Sequence[Tensor] = ()) -> list[Tensor]:
        """Ends a round: sums over all ranks, in place, in one collective (one a flat tensor)."""
        # torch counts how often a tensor was changed in place, each of these views for itself
        reached = [view._version != version for view, version in zip(self._views, self._versions, strict=True)]
        if several_ranks():
            anywhere, *others = self._sum([torch.tensor(reached), *others])
            reached = anywhere.tolist()
        for parameter, is_reached in zip(self._trainable, reached, strict=True):
            if not is_reached:
                parameter.grad = None
        return list(others)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients together, a scalar; not finite where any of them is not.

        It is added up row by row: on a CPU torch's own, of 28 million float32 at once, is wrong by 0.2 %.
        """
        rows = [torch.linalg.vector_norm(flat.view(-1, _ROW), dim=1) for flat in self.flats]
        return torch.stack([row.square().sum().to(rows[0]) for row in rows]).sum().sqrt()

    def multiply(self, factor: Tensor) -> None:
        """Multiplies all gradients with a scalar, in place."""
        for flat in self.flats:
            flat.mul_(factor)

    def _sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums gradients and these tensors over the ranks; returns the sums of the latter."""
        small = torch.cat([tensor.flatten().to(self._tail) for tensor in tensors])
        size = self.flats[0].numel() + small.numel()
        self._tail[: small.numel()] = small
        whole = self.flats[0].as_strided((size,), (1,))  # the tail lies behind it
        with explained_loss_of_ranks():
            for flat in (whole, *self.flats[1:]):
                dist.all_reduce(flat)
        sums = torch.split(self._tail[: small.numel()].clone(), [tensor.numel() for tensor in tensors])
        return [one.view_as(tensor).to(tensor.dtype) for one, tensor in zip(sums, tensors, strict=True)]

    def _attach(self) -> None:
        for parameter, grad in zip(self._trainable, self._grads, strict=True):
            if parameter.grad is not grad:
                parameter.grad = grad

    def _own(self, parameter: nn.Parameter) -> Tensor:
        """What this rank has of a parameter."""
        return parameter

    def _grad(self, parameter: nn.Parameter, view: Tensor) -> Tensor:
        """What the parameter gets as its gradient."""
        return view

    def _lay_out(self, flags: list[bool]) -> None:
        """Makes the flat tensors for the parameters as they are."""
        self._flags, self.flats, self.gradients = flags, [], {}
        trainable = {
            name: parameter for name, parameter, flag in zip(self._names, self._parameters, flags, strict=True) if flag
        }
        self._trainable = list(trainable.values())
        for parameter in self._parameters:
            parameter.grad = None
        alike: dict[tuple[torch.device, torch.dtype], dict[str, nn.Parameter]] = {}
        for name, parameter in trainable.items():
            alike.setdefault((parameter.device, parameter.dtype), {})[name] = parameter
        views: dict[str, Tensor] = {}
        for (device, dtype), trained in alike.items():
            named = {name: self._own(parameter) for name, parameter in trained.items()}
            step = max(1, _ALIGNMENT // dtype.itemsize)
            starts, size = [], 0
            for own in named.values():
                starts.append(size)
                size += _rounded_up(own.numel(), step)
            size = _rounded_up(size, _ROW)
            tail = 0 if self.flats else len(trainable) + self._room
            storage = torch.zeros(size + tail, device=device, dtype=dtype)
            if not self.flats:
                self._tail = storage[size:]
            self.flats.append(storage[:size])
            for (name, own), start in zip(named.items(), starts, strict=True):
                # as the parameter lies in memory: fused optimizers go through both side by side
                strides = torch.empty_like(own, device="meta").stride()
                # of `.data`, since all other views of a tensor share its count of changes
                views[name] = storage.as_strided(own.shape, strides, start).data
        if not self.flats and self._parameters:  # all are frozen
            self.flats.append(torch.zeros(0, device=self._parameters[0].device))
        self.gradients = {name: views[name] for name in trainable}
        self._views = list(self.gradients.values())
        self._grads = [self._grad(p, view) for p, view in zip(self._trainable, self._views, strict=True)]
        self._addresses = [view.data_ptr() for view in self._views]


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
