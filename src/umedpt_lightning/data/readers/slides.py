"""Tiles of whole slides, with what is known of the whole slide."""

from __future__ import annotations

from pathlib import Path

from umedpt_lightning.data.formats.columns import ClassColumn, LabelColumns, NumberColumns
from umedpt_lightning.data.formats.table import Table
from umedpt_lightning.data.readers.base import RowReader
from umedpt_lightning.data.slide.tiles import TileImages, Tiles


class SlideClasses(RowReader[TileImages]):
    """One class a slide, which is that of all its tiles, from a column of class names.

    Args:
        table: The table's file, or a `Table` where its columns have other names than usual. One row a slide
            (pyramidal TIFF, SVS and their relatives).
        split: Which part: the rows with this text in the column of parts; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices, or what the table calls each, as ``{AP: ap, PA: [pa, pa2]}``;
            None for those of the whole file in natural order, so that all parts agree.
        tiles: How slides are cut; None 256 pixels of 0.5 µm where at least half is tissue.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first slide has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: The table or slides are missing.
        ImportError: tiffslide is missing.
        ValueError: The table or a slide cannot be used, or there are no tiles.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str | int] | dict[str, str | list[str]] | None = None,
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, ClassColumn(label, classes), TileImages, tiles, channels, value_range)


class SlideLabels(RowReader[TileImages]):
    """Any number of labels a slide, which are those of all its tiles, from one column a label.

    Args:
        table: As for `SlideClasses`.
        split: As for `SlideClasses`.
        labels: Columns, one a label; cells are 1, 0, or empty where unknown.
        tiles: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.

    Raises what `SlideClasses` does.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        labels: list[str],
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, LabelColumns(labels), TileImages, tiles, channels, value_range)


class SlideNumbers(RowReader[TileImages]):
    """One or several numbers a slide, which are those of all its tiles, from one column a quantity.

    Args:
        table: As for `SlideClasses`.
        split: As for `SlideClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``; cells are empty where unknown.
        tiles: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.

    Raises what `SlideClasses` does, and ValueError for a quantity that is known of no slide.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        quantities: dict[str, str],
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, NumberColumns(quantities), TileImages, tiles, channels, value_range)
