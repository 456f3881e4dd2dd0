"""Charts by matplotlib in one style, without pyplot, whose state is global; imported when the first one is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

#: Told apart by colour-blind people too: Okabe & Ito, 2008.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: What is not one of the curves.
PALE = "#777777"
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKERS = "osD^"
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.dpi": 150,
    "font.size": 10,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in which one can search
    "svg.hashsalt": "umedpt",  # the same figure is the same file
    "text.parse_math": False,  # the names of tasks may have dollar signs
}
_LONGEST = 60  # characters of a name in a legend
_INCH_OF_TEXT, _LINE = 0.072, 0.21  # width of a character and height of a line, inches


@contextmanager
def house_style() -> Iterator[None]:
    """Everything is drawn within it, and as if the user had no ``matplotlibrc``; also a decorator."""
    import matplotlib

    style: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"} | _STYLE
    with matplotlib.rc_context(style):
        yield


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of that size in inches, whose axes make room for what stands around them."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the curve of that number; 28 of them differ."""
    turn = index // len(COLOURS) % len(_DASHES)
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _DASHES[turn], "marker": _MARKERS[turn]}


def add_legend(figure: Figure, entries: Sequence[tuple[Artist | BarContainer, str]]) -> None:
    """Names what is drawn, below the axes, in as many columns as fit; the figure grows by their height."""
    if not entries:
        return
    names = [shorten(name, _LONGEST) for _, name in entries]
    width, height = figure.get_size_inches()
    # as matplotlib does, column by column
    split = {columns: np.array_split(names, columns) for columns in range(1, len(names) + 1)}
    wide = {k: sum(_INCH_OF_TEXT * max(map(len, column)) + 0.7 for column in split[k]) for k in split}
    columns = max([k for k in split if wide[k] <= width], default=1)
    figure.set_size_inches(width, height + _LINE * len(split[columns][0]) + 0.1)
    handles: list[Any] = [handle for handle, _ in entries]  # matplotlib takes containers, but its types do not know
    legend = figure.legend(handles, ["x"] * len(names), loc="outside lower left", ncols=columns)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # only now: matplotlib leaves out names that begin with "_"


def shorten(name: str, longest: int) -> str:
    """The name, its middle left out where it is too long."""
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}…{name[-(longest - longest // 2) :]}"


def limits(low: float, high: float, least: float = 0.0) -> tuple[float, float]:
    """Ends of an axis, at least so long, that holds both values with a margin."""
    margin = max(0.06 * (high - low), (least - (high - low)) / 2, 1e-9 * abs(high), 1e-12)
    return low - margin, high + margin


def set_log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic horizontal axis that holds both values, whether or not anything is drawn there."""
    from matplotlib.ticker import NullFormatter

    margin = (high / low) ** 0.04 if high > low else 2.0
    axes.set_xlim(low / margin, high * margin)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())


@house_style()
def as_svg(figure: Figure, label: str) -> str:
    """The figure as an element for a page or a file; `label` is said to those who cannot see it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


@house_style()
def as_picture(figure: Figure) -> Image.Image:
    """The figure as pixels, 150 an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # without types
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
