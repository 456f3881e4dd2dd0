"""TensorFlow's SAME padding of timm's convolutions, as constants in graphs that are exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch


@contextmanager
def constant_same_padding() -> Iterator[None]:
    """While a graph is traced, pads by what images padded to the last stride need, whose sides every stride divides.

    timm takes the padding from the size of each map: in a graph for images of any size that is an expression a layer,
    each longer than the one before, which torch takes minutes to simplify.
    """
    if torch.compiler.is_exporting():
        with mock.patch("timm.layers.padding.get_same_padding", _padding):
            yield
    else:
        yield


def _padding(side: int, kernel: int, stride: int, dilation: int) -> int:
    """Pixels on both sides together, for a side that is a multiple of the stride."""
    return max((kernel - 1) * dilation + 1 - stride, 0)
