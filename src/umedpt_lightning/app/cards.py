"""Answers as HTML. All text in it is escaped: names come from models and files of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from umedpt_lightning.app.figure import Picture, data_uri, figure, paint
from umedpt_lightning.app.neighbours import Neighbour
from umedpt_lightning.labels import Bar, BoxLayer, LegendEntry, Number, PageView

#: Most bars that are shown at once; the others are there to be opened.
MOST_BARS = 10


def card(title: str, kind: str, body: str) -> str:
    """A task's or another part's frame: its name, what it shows in a few words, and HTML."""
    head = f"<h3>{escape(title)} <small>{escape(kind)}</small></h3>"
    return f'<section class="u-card" data-task="{escape(title)}">{head}{body}</section>'


def problem(text: str) -> str:
    """A message that something is wrong."""
    return f'<p class="u-problem" role="alert">{escape(text)}</p>'


def notes(texts: Sequence[str]) -> str:
    """What else the user should know."""
    return "".join(f'<p class="u-note">{escape(text)}</p>' for text in texts)


def body(answer: PageView, picture: Picture, label: str) -> str:
    """An answer, without its notes, drawn over the `picture` of the image; `label` is for who cannot see it."""
    names = {entry.index: entry.name for entry in answer.legend}
    drawn = figure(picture, answer.layer, names, label) if answer.layer is not None else ""
    return _bars(answer.bars) + _numbers(answer.numbers) + _legend(answer.legend) + drawn + _table(answer, names)


def neighbours(found: Sequence[Neighbour], pictures: Sequence[Picture | None]) -> str:
    """The nearest samples with their pictures; None where one is no image file."""
    items = []
    for one, picture in zip(found, pictures, strict=True):
        shown = f'<img src="{data_uri(picture.pixels)}" alt="">' if picture else '<div class="u-blank">no picture</div>'
        group = f"<span>group {escape(one.group)}</span>" if one.group else ""
        items.append(
            f"<li>{shown}<b>{one.cosine:.4f}</b>{group}<span title='{escape(one.id)}'>{escape(one.id)}</span></li>"
        )
    return f'<ol class="u-near">{"".join(items)}</ol>'


def _bars(bars: Sequence[Bar]) -> str:
    if not bars:
        return ""
    rows = [
        f'<div class="u-bar{" u-best" if bar.stands_out else ""}"><span>{escape(bar.name)}</span>'
        f'<i><u style="width: {bar.probability:.2%}"></u></i><b>{bar.probability:.1%}</b></div>'
        for bar in bars
    ]
    rest = rows[MOST_BARS:]
    more = f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
    return "".join(rows[:MOST_BARS]) + more


def _numbers(numbers: Sequence[Number]) -> str:
    if not numbers:
        return ""
    rows = [f"<div><dt>{escape(n.name)}</dt><dd><b>{n.value:.4g}</b> {escape(n.unit)}</dd></div>" for n in numbers]
    return f'<dl class="u-numbers">{"".join(rows)}</dl>'


def _legend(entries: Sequence[LegendEntry]) -> str:
    items = [
        f'<li><i style="background: {paint(entry.index)}"></i>{escape(entry.name)} <b>{escape(entry.amount)}</b></li>'
        for entry in entries
    ]
    return f'<ul class="u-legend">{"".join(items)}</ul>' if items else ""


def _table(answer: PageView, names: dict[int, str]) -> str:
    """All boxes in numbers."""
    if not isinstance(answer.layer, BoxLayer) or not len(answer.layer.boxes) or answer.layer.scores is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(names[int(label)])}</td><td>{score:.2f}</td>"
        + "".join(f"<td>{value:.0f}</td>" for value in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
        + "</tr>"
        for box, label, score in zip(answer.layer.boxes, answer.layer.labels, answer.layer.scores, strict=True)
    )
    head = "<tr><th>class</th><th>score</th><th>left</th><th>top</th><th>width</th><th>height</th></tr>"
    return f"<details><summary>All boxes in numbers (px)</summary><table>{head}{rows}</table></details>"
