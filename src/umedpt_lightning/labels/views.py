"""What is shown of targets and predictions of any kind: layers over the image, lines of text, bars and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

#: Most lines of text that a picture shows of one sample.
MOST_LINES = 16


@dataclass(frozen=True)
class MaskLayer:
    """One class a pixel, ``(H, W)`` class indices or `IGNORE_INDEX`; class 0 is the background and not drawn."""

    values: NDArray[Any]


@dataclass(frozen=True)
class BoxLayer:
    """Boxes, best first.

    Attributes:
        boxes: ``(N, 4)`` pixels.
        labels: ``(N,)`` class indices.
        scores: ``(N,)`` 0 to 1, None for true boxes.
    """

    boxes: NDArray[Any]
    labels: NDArray[Any]
    scores: NDArray[Any] | None = None

    def captions(self, classes: dict[int, str]) -> list[str]:
        """Class name and score of every box."""
        names = [classes[int(label)] for label in self.labels]
        if self.scores is None:
            return names
        return [f"{name} {score:.2f}" for name, score in zip(names, self.scores, strict=True)]


@dataclass(frozen=True)
class PixelLayer:
    """Another image in the place of the image, ``(C, H, W)`` with 0 black and 1 white."""

    values: NDArray[Any]


Layer = MaskLayer | BoxLayer | PixelLayer


@dataclass(frozen=True)
class Line:
    """A line of text under an image.

    `right` is whether it shows a right prediction; None if it shows none, or one that is neither right nor wrong.
    """

    text: str
    right: bool | None = None


@dataclass(frozen=True)
class View:
    """What a picture shows of one sample beside its image.

    Attributes:
        lines: Text.
        truth: Drawn over the image in a panel of its own.
        prediction: Likewise.
        classes: Names of the classes in the layers, by index.
    """

    lines: tuple[Line, ...] = ()
    truth: Layer | None = None
    prediction: Layer | None = None
    classes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A curve of a chart: its name, and ``(N,)`` each.

    Attributes:
        marks: ``(M,)`` where on x it has a tick.
        colour: Which of the colours of charts it has; None for the next one.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    marks: NDArray[Any] | None = None
    colour: int | None = None


@dataclass(frozen=True)
class Chart:
    """What is drawn of all samples of a part together.

    Attributes:
        title: What it shows.
        x: What the horizontal axis is.
        y: What the vertical one is; a share, if it begins so, goes from 0 to 1.
        curves: In the order of the legend.
        steps: Whether each value holds until the next one.
    """

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    steps: bool = False


@dataclass(frozen=True)
class Bar:
    """A probability; the likeliest class, or a label that is likelier than not, stands out."""

    name: str
    probability: float
    stands_out: bool


@dataclass(frozen=True)
class Number:
    """A number with its unit."""

    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """A line of a legend: the index of a class, which has a colour, its name, and how much of it there is."""

    index: int
    name: str
    amount: str


@dataclass(frozen=True)
class PageView:
    """What the page for trying a model shows of one prediction.

    Attributes:
        bars: Probabilities.
        numbers: Numbers.
        legend: The classes of the layer.
        layer: What is drawn over the image.
        notes: What else the user should know.
    """

    bars: tuple[Bar, ...] = ()
    numbers: tuple[Number, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    layer: Layer | None = None
    notes: tuple[str, ...] = ()
