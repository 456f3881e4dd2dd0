"""Tables of images: CSV or Parquet with a column of image paths and one that says the part."""

from __future__ import annotations

from pathlib import Path

from umedpt_lightning.data.formats.columns import ClassColumn, LabelColumns, NumberColumns, SurvivalColumns
from umedpt_lightning.data.formats.faults import Collector
from umedpt_lightning.data.formats.files import ImageFiles
from umedpt_lightning.data.formats.masks import MaskFiles
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import RowReader
from umedpt_lightning.data.readers.folders import MaskFileReader
from umedpt_lightning.types import MaskSpec


class ManifestClasses(RowReader[ImageFiles]):
    """One class an image, from a column of class names.

    Args:
        table: The table's file, or a `Table` where its columns have other names than usual.
        split: Which part: the rows with this text in the column of parts; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices, or what the table calls each, as ``{AP: ap, PA: [pa, pa2]}``;
            None for those of the whole file in natural order, so that all parts agree.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: The table or images are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str | int] | dict[str, str | list[str]] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, ClassColumn(label, classes), ImageFiles, channels, value_range)


class ManifestLabels(RowReader[ImageFiles]):
    """Any number of labels an image, from one column a label: 1, 0, or empty where unknown.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        labels: Columns, one a label.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.

    Raises what `ManifestClasses` does.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        labels: list[str],
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, LabelColumns(labels), ImageFiles, channels, value_range)


class ManifestNumbers(RowReader[ImageFiles]):
    """One or several numbers an image, from one column a quantity: empty where unknown.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.

    Raises what `ManifestClasses` does, and ValueError for a quantity that is known of no sample.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        quantities: dict[str, str],
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, NumberColumns(quantities), ImageFiles, channels, value_range)


class ManifestSurvival(RowReader[ImageFiles]):
    """The time until an event, from a column of times and one that says whether the event was seen.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        unit: What times are in, such as months.
        time: Column of times, from 0 on, until the event or until nothing more is known.
        event: Column of 1 where the event was seen, else 0.
        times: At which predictions state the survival; None for the quartiles of the events.
        intervals: Time is cut into so many, with about as many events in each.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.

    Raises what `ManifestClasses` does, and ValueError where no event was seen.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        unit: str,
        time: str = "time",
        event: str = "event",
        times: list[float] | None = None,
        intervals: int = 10,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        columns = SurvivalColumns(time, event, unit, times or (), intervals)
        self._read(table, split, columns, ImageFiles, channels, value_range)


class ManifestMasks(MaskFileReader):
    """One class a pixel, from a column of mask paths.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        classes: Names of the classes stored as 0, 1, ..., the background first; or a stored value for each name, such
            as ``{background: 0, nodule: 255}``.
        mask: Column of mask paths, relative as those of the images.
        ignore: The stored value of unlabelled pixels; None if every pixel is labelled.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.

    Raises:
        FileNotFoundError: The table, images or masks are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str | int] | dict[str, int],
        mask: str = "mask",
        ignore: int | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [mask])
        faults = Collector()
        with faults:
            self._of_rows = rows.groups()
        with faults:
            self._images = ImageFiles(rows.paths(), channels, value_range, rows.file)
        with faults:
            self._masks = MaskFiles(rows.paths(mask), classes, ignore, rows.file)
        faults.raise_found()
        self.spec = MaskSpec(**self._images.facts, classes=self._masks.classes)
