"""GroupNorm over a whole image that is seen tile by tile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from umedpt_lightning.model import MultiTaskModel


class Own(NamedTuple):
    """The part of a tile that no other tile answers for, as shares of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


class _Enough(Exception):  # noqa: N818  # nothing is wrong
    """Ends the pass of a tile where its statistics are known."""


class SharedNorms:
    """Lets every GroupNorm of a model normalise by the whole image rather than by the tile that it sees.

    Else a tile full of tissue and its neighbour of glass would be normalised differently, and a seam be seen.

    Statistics belong to the calls of a pass, in their order: the towers for boxes see every level of the pyramid.

    Args:
        model: What holds the layers; one task of it is run.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._encoder = model.encoder
        self._layers = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
        self._known: list[tuple[Tensor, Tensor]] = []
        self._sums: list[Tensor] = []
        self._pass = threading.local()

    def measure(self, runs: Sequence[tuple[Own, Callable[[], object]]]) -> None:
        """Finds the statistics of several tiles together.

        What a layer sees depends on the statistics of those before it. So all tiles go from one GroupNorm to the next
        side by side, and wait there for each other: each has a thread, but one runs at a time.

        Args:
            runs: For every tile its own part, and what runs the model on it.
        """
        if not self._layers:
            return
        turn = threading.Lock()
        meeting = threading.Barrier(len(runs))
        without_gradients = torch.is_inference_mode_enabled()

        def run(own: Own, forward: Callable[[], object]) -> None:
            def meet(layer: nn.GroupNorm, features: Tensor, call: int) -> None:
                self._sums.append(_sums(layer, features, own))
                turn.release()
                try:
                    if meeting.wait() == 0:  # one of them, while the others wait again
                        self._settle()
                    meeting.wait()
                finally:
                    turn.acquire()

            self._pass.meet = meet
            with turn, torch.inference_mode(without_gradients):
                try:
                    forward()
                except BaseException:
                    meeting.abort()  # or the others would wait for ever
                    raise

        with self.used(), ThreadPoolExecutor(len(runs)) as threads:
            errors = [future.exception() for future in [threads.submit(run, *each) for each in runs]]
        told = [error for error in errors if error is not None]
        if told:
            raise next((error for error in told if not isinstance(error, threading.BrokenBarrierError)), told[0])

    def measure_in_turn(self, runs: Sequence[tuple[Own, Callable[[], object]]]) -> None:
        """As `measure`, but with one tile in memory at a time: all tiles are gone through once for every layer."""

        def meet(layer: nn.GroupNorm, features: Tensor, call: int) -> None:
            if call == len(self._known):
                self._sums.append(_sums(layer, features, own))
                raise _Enough

        self._pass.meet = meet
        try:
            with self.used():
                met = bool(self._layers)
                while met:
                    for own, forward in runs:  # noqa: B007  # `meet` reads it
                        with suppress(_Enough):
                            forward()
                    met = bool(self._sums)
                    if met:
                        self._settle()
        finally:
            del self._pass.meet

    @contextmanager
    def used(self) -> Iterator[None]:
        """Normalises by what was measured."""
        handles = [layer.register_forward_hook(self._normalise) for layer in self._layers]
        handles.append(self._encoder.register_forward_pre_hook(self._begin))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, *_: Any) -> None:
        self._pass.calls = 0

    def _settle(self) -> None:
        count, total, squares = torch.stack(self._sums).sum(0)
        self._sums = []
        mean = total / count
        self._known.append(((total / count).float(), (squares / count - mean.square()).clamp_min(0).float()))

    def _normalise(self, layer: Any, inputs: Any, output: Tensor) -> Tensor:
        (features,) = inputs  # (B, C, H, W)
        call = self._pass.calls
        meet = getattr(self._pass, "meet", None)
        if meet is not None:
            meet(layer, features, call)
        self._pass.calls += 1
        if call >= len(self._known):  # a single tile is the whole image
            return output
        width = features.shape[1] // layer.num_groups
        mean, variance = (each.repeat_interleave(width) for each in self._known[call])  # (C,)
        scale = (variance + layer.eps).rsqrt() * layer.weight
        shift = layer.bias - mean * scale
        return torch.addcmul(shift[:, None, None], features, scale[:, None, None])


def _sums(layer: nn.GroupNorm, features: Tensor, own: Own) -> Tensor:
    """Numbers, their sum and the sum of their squares, ``(3, groups)``, in the own part of a tile ``(1, C, H, W)``."""
    height, width = features.shape[2:]
    rows = slice(round(own.top * height), round(own.bottom * height))
    columns = slice(round(own.left * width), round(own.right * width))
    part = features[0, :, rows, columns].reshape(layer.num_groups, -1).double()
    count = torch.full_like(part[:, 0], part.shape[1])
    return torch.stack([count, part.sum(1), part.square().sum(1)])
