"""Draws pictures/data_way.svg, the way of the data from files to one optimizer step: `python docs/make_drawing.py`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

FILE = Path(__file__).parent / "pictures" / "data_way.svg"
WIDTH, HEIGHT = 960, 500
#: Fill and edge.
DATA, SHARED, TASK, STEP = (
    ("#e8f1fb", "#3b76b8"),
    ("#e3f4ec", "#26845a"),
    ("#fdf0dc", "#b9770e"),
    ("#f3e8f7", "#7d4a97"),
)
INK = "#22303c"


def box(x: int, y: int, width: int, height: int, lines: Sequence[str], colours: tuple[str, str]) -> str:
    """A rounded box with centred lines, the first of them bold."""
    fill, edge = colours
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    text = "".join(
        f'<text x="{x + width / 2}" y="{top + 18 * i}" text-anchor="middle" font-size="{13 if i else 15}" '
        f'font-weight="{400 if i else 600}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{edge}"/>'
    return shape + text


def arrow(*points: tuple[int, int], dashed: bool = False) -> str:
    """A line through points with a head at its end."""
    way = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<polyline points="{way}" fill="none" stroke="{INK}" stroke-width="1.5"{dash} marker-end="url(#head)"/>'


def label(x: int, y: int, text: str, anchor: str = "middle") -> str:
    """Words beside an arrow."""
    return f'<text x="{x}" y="{y}" font-size="13" font-style="italic" text-anchor="{anchor}">{escape(text)}</text>'


def drawing() -> str:
    """The whole picture."""
    parts = [
        box(20, 20, 200, 44, ["X-ray: classes"], DATA),
        box(20, 72, 200, 44, ["CT slices: masks"], DATA),
        box(20, 124, 200, 44, ["blood smears: boxes"], DATA),
        label(120, 188, "a reader for each task and part"),
        box(280, 52, 170, 84, ["streams", "an order of each task,", "a schedule of tasks"], DATA),
        box(510, 52, 180, 84, ["one worker pool", "decode, resize,", "augment"], DATA),
        box(750, 52, 190, 84, ["micro-batch", "images of one task,", "as they were stored"], TASK),
        *(arrow((220, y), (250, y), (250, 94), (280, 94)) for y in (42, 146)),
        arrow((220, 94), (280, 94)),
        arrow((450, 94), (510, 94)),
        arrow((690, 94), (750, 94)),
        # the round
        '<rect x="20" y="212" width="920" height="192" rx="12" fill="none" stroke="#8a98a5" stroke-dasharray="3 4"/>',
        label(36, 234, "for each task of the round in turn", "start"),
        arrow((845, 136), (845, 224), (300, 224), (300, 250), (100, 250), (100, 272)),
        box(40, 272, 120, 72, ["normalise", "on the device"], TASK),
        box(200, 272, 120, 72, ["encoder", "any of timm"], SHARED),
        box(380, 240, 170, 40, ["pooling"], SHARED),
        box(380, 288, 170, 40, ["pixel decoder"], SHARED),
        box(380, 336, 170, 40, ["detection decoder"], SHARED),
        box(580, 240, 205, 40, ["class, labels, numbers"], TASK),
        box(580, 288, 205, 40, ["mask"], TASK),
        box(580, 336, 205, 40, ["boxes"], TASK),
        box(830, 272, 100, 72, ["loss", "backward,", "graph freed"], TASK),
        arrow((160, 308), (200, 308)),
        arrow((320, 308), (350, 308), (350, 260), (380, 260)),
        arrow((320, 308), (380, 308)),
        arrow((320, 308), (350, 308), (350, 356), (380, 356)),
        *(arrow((550, y), (580, y)) for y in (260, 308, 356)),
        arrow((785, 260), (805, 260), (805, 308), (830, 308)),
        arrow((785, 308), (830, 308)),
        arrow((785, 356), (805, 356), (805, 308), (830, 308)),
        arrow((880, 344), (880, 392), (100, 392), (100, 344), dashed=True),
        # after the last
        arrow((180, 404), (180, 458), (300, 458)),
        label(40, 434, "after the last task", "start"),
        box(300, 436, 150, 44, ["clip gradients"], STEP),
        box(500, 436, 150, 44, ["one step"], STEP),
        box(700, 436, 150, 44, ["log, next round"], STEP),
        arrow((450, 458), (500, 458)),
        arrow((650, 458), (700, 458)),
    ]
    return "\n".join(parts)


def svg(content: str) -> str:
    """A file, on white in dark pages too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" fill="{INK}">\n'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0,1 L10,5 L0,9 z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>\n{content}\n</svg>\n'
    )


if __name__ == "__main__":
    FILE.write_text(svg(drawing()), encoding="utf-8")
