"""Samples as they are stored and as training sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from umedpt_lightning.drawing.pictures import card, panel, sheet, to_rgb
from umedpt_lightning.labels import Line, TaskSpec, View
from umedpt_lightning.types import Sample


@dataclass
class Row:
    """One sample of a contact sheet.

    Attributes:
        name: What a message calls it.
        stored: As its reader gives it; None where it cannot be read.
        versions: As training sees it, by title.
        message: What went wrong with it; empty if nothing did.
    """

    name: str
    stored: Sample | None = None
    versions: dict[str, Sample] = field(default_factory=dict)
    message: str = ""


def draw_contact_sheet(rows: Sequence[Row], spec: TaskSpec, caption: str) -> Image.Image:
    """A row a sample: as stored, the same with its labels, and its versions with theirs, over a legend.

    Args:
        rows: At least one, of one task.
        spec: What the task's data say of themselves.
        caption: What is written above them.
    """
    views: list[View] = []
    cards = [_card(row, spec, views) for row in rows]
    return sheet(cards, views, caption)


def _card(row: Row, spec: TaskSpec, views: list[View]) -> Image.Image:
    """Adds what it shows to `views`."""
    panels: dict[str, Image.Image] = {}
    lines: list[Line] = []
    if row.stored is not None:
        height, width = row.stored.image.shape[:2]
        count = f"{len(row.stored.images)} of " if len(row.stored.images) > 1 else ""
        title = f"stored: {count}{width} x {height}, {row.stored.image.dtype}"
        view = spec.truth_view(spec.prepared(row.stored.target, (height, width)))
        views.append(view)
        lines += view.lines
        if view.truth is not None:
            panels[title] = _panel(row.stored, View(), spec)
            title = "with labels"
        panels[title] = _panel(row.stored, view, spec)
    for title, sample in row.versions.items():
        view = spec.truth_view(sample.target)
        views.append(view)
        # below the row stands what is true of all; only boxes may get lost
        changed = [line.text for line in view.lines if line not in lines]
        panels[", ".join([title, *changed])] = _panel(sample, view, spec)
    if row.message:
        lines.append(Line(row.message, right=False))
    return card(panels, row.name, lines)


def _panel(sample: Sample, view: View, spec: TaskSpec) -> Image.Image:
    alike = [image for image in sample.images if image.shape == sample.image.shape]
    images = np.moveaxis(np.stack(alike), -1, 1)  # (N, C, H, W)
    pixels = to_rgb(images if len(images) > 1 else images[0], spec.value_range)
    return panel(pixels, view.truth, view.classes, filled=False)
