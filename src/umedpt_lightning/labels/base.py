"""The contract of a label kind: all that the program asks of targets and predictions, with defaults for any kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.calibration import Stated
from umedpt_lightning.labels.findings import Finding
from umedpt_lightning.labels.views import MOST_LINES, Line, Number, PageView, View
from umedpt_lightning.labels.wording import flat_values

#: The index of what is unlabelled, in class labels and in masks. No class can have it, no loss and no metric counts it.
IGNORE_INDEX = -1
#: What it was in release 0.1; see `warn_of_255`.
OLD_IGNORE_INDEX = 255

#: A target as one row of numbers, see `TaskSpec.inspect`.
Figures = NDArray[np.float32]
#: Columns of a table of predictions and what is in them.
TableRow = dict[str, Any]
#: What predictions are: some values, one class a pixel ``(H, W)``, or objects with ``boxes``, ``scores``, ``labels``.
Form = Literal["values", "mask", "objects"]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A label kind: what a data set says of itself, and what the program does with such targets and predictions.

    Heads take their sizes from it. Two parts of one task (train and val) must have equal specs. Statistics do not count
    for that.

    A kind of one's own is a frozen dataclass that derives from this one, and a `umedpt_lightning.tasks.Task` for it.
    Every method has a default that works for any target and prediction; a kind overrides those for which it has
    something better to say. *Prediction* is one image's, an item of what `Task.predict` returns, with arrays for
    tensors; *target* is what a reader gives.

    Attributes:
        channels: Channels of every image.
        value_range: The stored intensities that become 0 and 1.
        cut: How the reader made images of files: from volumes (``slices`` and ``intensity``), from slides (``tiles``),
            by the options of these, or as ``images`` (their ``dtype``, and whether DICOM was ``windowed``). Files are
            predicted by it; where it is empty, nothing is known.
        bag: What the images of a sample are of, such as a patient; empty where a sample is one image.
        kind: A short name in files; empty for the name of the class.
        title: What an image has, in a few words; empty for the name of the class.
        hub_type: What the Hugging Face Hub calls such a task.
        form: What predictions are: it says how they are written and whether tiles of them can be joined.
        noun: What there should be one of for each of the `names`.
        names_in: The field that has the `names`, each with a number in a row of `inspect` unless `columns` says else;
            empty where names are something else.
    """

    kind: ClassVar[str] = ""
    title: ClassVar[str] = ""
    hub_type: ClassVar[str] = "other"
    form: ClassVar[Form] = "values"
    noun: ClassVar[str] = "sample"
    names_in: ClassVar[str] = ""

    channels: int
    value_range: tuple[float, float] = (0.0, 255.0)
    cut: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    bag: str = ""

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range must be (low, high) with low < high, but it is {self.value_range}.")
        if self.channels < 1:
            raise ValueError(f"An image has at least one channel, but channels is {self.channels}.")

    # words

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, labels or quantities."""
        names: tuple[str, ...] = getattr(self, self.names_in) if self.names_in else ()
        return names

    @property
    def titles(self) -> tuple[str, ...]:
        """The names as headings of a table, with units."""
        return self.names

    @property
    def phrase(self) -> str:
        """What the task gives, in a few words."""
        return self.title or type(self).__name__

    def unit(self, metric: str) -> str:
        """The unit of a metric; empty for none."""
        return ""

    def is_of_one_name(self, metric: str) -> bool:
        """Whether a metric is that of a single class or label, which a table of the main results leaves out."""
        return metric.endswith(tuple(f"_{name}" for name in self.names))

    # targets

    def prepared(self, target: Any, size: tuple[int, int]) -> Any:
        """The target as training takes it, before its image of that height and width is resized and augmented.

        Integer and float targets become a tensor ``(B,)``, arrays of one shape a tensor ``(B, ...)``, and everything
        else a list. Arrays of the image's height and width are resized, flipped and turned with it, by nearest pixel.

        Raises:
            ValueError: It is no target of this kind.
        """
        return target

    def with_statistics(self, targets: NDArray[Any]) -> Self:
        """The spec with the statistics of these targets, which a reader has in memory.

        Raises:
            ValueError: The targets cannot be used.
        """
        return self

    def labelled(self, targets: NDArray[Any]) -> NDArray[np.bool_]:
        """``(N,)`` of which samples a model on embeddings can learn."""
        return np.ones(len(targets), np.bool_)

    def lacking(self, targets: NDArray[Any]) -> tuple[str, ...]:
        """Sentences on what labelled samples lack, so that it cannot be learned of them."""
        return ()

    def strata(self, targets: NDArray[Any], least: float) -> tuple[NDArray[np.bool_], list[str]]:
        """What each part of a split should have its share of.

        Args:
            targets: As `Reader.targets`.
            least: The smallest share of a part.

        Returns:
            ``(N, S)`` whether a sample belongs to each stratum, and the names of the first strata, which no part may
            lack.
        """
        return np.empty((len(targets), 0), np.bool_), []

    @property
    def is_one_of_names(self) -> bool:
        """Whether an image is of one of `names` alone, so that few labels are counted for each of them."""
        return False

    # the data check

    @property
    def columns(self) -> int:
        """How many numbers a row of `inspect` has."""
        return len(self.names) if self.names_in and type(self).inspect is not TaskSpec.inspect else 0

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """What is wrong with a target of an image of that height and width, and the target as a row of numbers.

        Returns:
            What was found, and ``(columns,)`` float32, NaN where unknown; None where there is no such row.
        """
        return [], None

    def samples(self, rows: Figures) -> dict[str, int]:
        """Samples that show each class, have each label, or have a value of each quantity, by rows of `inspect`."""
        return dict(zip(self.names, (rows > 0).sum(axis=0).tolist(), strict=True)) if self.columns else {}

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """What the targets of a part are like, in types of JSON.

        Of ``(N, columns)`` rows of `inspect`, which are NaN where a sample has none.
        """
        return {"samples": self.samples(rows)} if self.columns else {}

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Lines of the check's table: headings and what is beside them, by the `statistics` of a part's samples."""
        return {f"  {name}": f"{number:,}" for name, number in statistics.get("samples", {}).items()}

    # pictures, tables and the page

    def truth_view(self, target: Any) -> View:
        """What a picture shows of a target."""
        return View(tuple(map(Line, self._in_lines(target))))

    def prediction_view(self, prediction: Any) -> View:
        """What a picture shows of a prediction."""
        return View(tuple(map(Line, self._in_lines(prediction))))

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """What a picture shows of a prediction beside the truth."""
        true, predicted = self.truth_view(target), self.prediction_view(prediction)
        lines = [Line(f"truth: {line.text}") for line in true.lines]
        lines += [Line(f"prediction: {line.text}") for line in predicted.lines]
        return View(tuple(lines), true.truth, predicted.prediction, predicted.classes | true.classes)

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """What the page shows of a prediction, objects with a score below `min_score` left out."""
        numbers = flat_values(prediction, self.names).items()
        return PageView(
            numbers=tuple(Number(name, value) for name, value in numbers if not isinstance(value, str)),
            notes=tuple(f"{name}: {value}" for name, value in numbers if isinstance(value, str)),
        )

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """What a table says of a prediction for an area of so many µm², None where it is unknown."""
        return flat_values(prediction, self.titles)

    def confident(self, prediction: Any, min_score: float) -> Any:
        """The prediction without objects whose score is lower."""
        return prediction

    def resized(self, prediction: Any, size: tuple[int, int], wanted: tuple[int, int]) -> Any:
        """The prediction for a picture of its image in another size, both height and width in pixels.

        See `Task.resized` for that of tensors.
        """
        return prediction

    def mean(self, predictions: Sequence[Any]) -> Any:
        """The mean of predictions for the tiles of a slide; None where they have none."""
        shapes = {one.shape if isinstance(one, np.ndarray) else None for one in predictions}
        return None if len(shapes) > 1 or None in shapes else np.mean(predictions, axis=0)

    # measures beside the metrics

    def confusion(self, predictions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64] | None:
        """``(K, K)`` counts, rows the truth, columns the answer; None where an answer is no single class."""
        return None

    def stated(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Sequence[Stated]:
        """Stated probabilities and whether it was so: of the answer, or of each label; nothing where none are stated.

        Predictions and targets are ``(N, ...)``.
        """
        return ()

    def _in_lines(self, value: Any) -> Iterable[str]:
        for name, one in [*flat_values(value, self.titles).items()][:MOST_LINES]:
            yield f"{name}: {one}" if isinstance(one, str) else f"{name}: {one:.4g}"


def warn_of_255() -> None:
    """Tells once that a reader of one's own still says 255 for what is unlabelled."""
    warnings.warn(
        f"A reader gives {OLD_IGNORE_INDEX} for what is unlabelled, which holds for one more release. It is "
        f"{IGNORE_INDEX} now (umedpt_lightning.types.IGNORE_INDEX), so that there may be any number of classes: return "
        "it, and masks as int16.",
        FutureWarning,
        stacklevel=3,
    )
