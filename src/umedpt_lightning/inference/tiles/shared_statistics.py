"""Layers that look at all of an image, where it is seen tile by tile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from umedpt_lightning.blocks.whole_image_layers import Own, WholeImageLayer, whole_image_layers
from umedpt_lightning.model import MultiTaskModel

#: For every tile its own part, and what runs the model on it.
Runs = Sequence[tuple[Own, Callable[[], object]]]


class _Enough(Exception):  # noqa: N818  # nothing is wrong
    """Ends the pass of a tile where its statistics are known."""


class SharedStatistics:
    """Lets GroupNorm, squeeze-and-excitation and the like go by the whole image rather than by the tile that they see.

    Else a tile full of tissue and its neighbour of glass would be normalised differently, and one would see where they
    meet.

    Statistics belong to the calls of a pass of one task, in their order: the towers for boxes see every level of the
    pyramid.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._encoder = model.encoder
        self._layers = whole_image_layers(model, model.encoder.whole_image_layer)
        self._known: list[tuple[Tensor, Tensor]] = []  # scale and shift, (C,) each
        self._sums: list[Tensor] = []
        self._pass = threading.local()

    def calls(self, forward: Callable[[], object]) -> int:
        """How many calls of such layers a pass has, by one that runs the model on anything."""
        with self.used():
            forward()
        calls: int = self._pass.calls
        return calls

    def measure(self, runs: Runs, advance: Callable[[int], None] = lambda steps: None) -> None:
        """Finds the statistics of several tiles together.

        What a layer sees depends on the statistics of those before it. So all tiles go from one layer to the next side
        by side, and wait there for each other: each has a thread, but one runs at a time. `advance` is called with 1
        for every tile at every call of a layer.
        """
        if not self._layers:
            return
        turn = threading.Lock()
        meeting = threading.Barrier(len(runs))
        without_gradients = torch.is_inference_mode_enabled()

        def run(own: Own, forward: Callable[[], object]) -> None:
            def meet(layer: WholeImageLayer, features: Tensor, call: int) -> None:
                self._sums.append(layer.sums(features, own))
                advance(1)
                turn.release()
                try:
                    if meeting.wait() == 0:  # one of them, while the others wait again
                        self._settle(layer)
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

    def measure_in_turn(self, runs: Runs, calls: int, advance: Callable[[int], None] = lambda steps: None) -> None:
        """As `measure`, but with one tile in memory at a time: all are gone through once for each of the calls."""

        def meet(layer: WholeImageLayer, features: Tensor, call: int) -> None:
            if call == len(self._known):
                self._sums.append(layer.sums(features, own))
                if len(self._sums) == len(runs):
                    self._settle(layer)
                raise _Enough

        self._pass.meet = meet
        try:
            with self.used():
                for _ in range(calls):
                    for own, forward in runs:  # noqa: B007  # `meet` reads it
                        with suppress(_Enough):
                            forward()
                        advance(1)
        finally:
            del self._pass.meet

    @contextmanager
    def used(self) -> Iterator[None]:
        """Goes by what was measured."""
        handles = [each.layer.register_forward_hook(partial(self._shared, each)) for each in self._layers]
        handles.append(self._encoder.register_forward_pre_hook(self._begin))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, *_: Any) -> None:
        self._pass.calls = 0

    def _settle(self, layer: WholeImageLayer) -> None:
        scale, shift = layer.scale_and_shift(torch.stack(self._sums).sum(0))
        self._sums = []
        self._known.append((scale.float(), shift.float()))

    def _shared(self, layer: WholeImageLayer, _: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (features,) = inputs
        call = self._pass.calls
        meet = getattr(self._pass, "meet", None)
        if meet is not None:
            meet(layer, features, call)
        self._pass.calls += 1
        if call >= len(self._known):  # a single tile is the whole image
            return output
        return layer.output(features, *self._known[call])
