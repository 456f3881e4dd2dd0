"""The contract of a task: a tiny head on shared features, with its loss and its metrics."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.hparams import HParamsMixin
from umedpt_lightning.labels.views import Chart, View
from umedpt_lightning.tasks.answers import Answers, picked
from umedpt_lightning.types import BatchTargets, TaskBatch, TaskSpec, finite_rows

#: The logit of an answer that counts as certain.
CERTAIN = 1e30
#: Linear models that can stand in for a head on the embedding: logistic regression of classes, of each label by itself,
#: and ridge regression.
LinearFamily = Literal["classes", "labels", "numbers"]


class FeatureWidths:
    """Widths of the shared features as attributes: ``widths.embedding``, ``widths.pixels``, ``widths.detection``, ….

    The model builds a shared block when a head asks for its width.

    Args:
        width: Gives the width of features by their name, see `Task.needs`; None where only `known` ones are.
        known: Widths that are known already.
    """

    def __init__(self, width: Callable[[str], int] | None = None, **known: int) -> None:
        self._width, self._known = width, known

    def __getattr__(self, needs: str) -> int:
        """The width of features that heads may read."""
        if needs in self.__dict__.get("_known", ()):
            return self._known[needs]
        if needs.startswith("_") or self._width is None:
            raise AttributeError(needs)
        self._known[needs] = self._width(needs)
        return self._known[needs]

    def close(self) -> None:
        """Keeps only the widths that were asked for: else a head, and each copy of it, would keep all shared blocks."""
        self._width = None


def as_float(output: Tensor) -> Tensor:
    """`output` in float32 where autocast made it half precision: losses and metrics need the digits."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def finite_or_wrong(output: Tensor, wrong: Tensor) -> Tensor:
    """Outputs ``(B, K)`` in float32 at least, those of samples for which they are not finite replaced by wrong ones."""
    output = as_float(output)
    return output.where(finite_rows(output, len(output))[:, None], wrong.to(output.dtype))


class Task(HParamsMixin, nn.Module, ABC):
    """A label kind: head, loss, metrics and prediction.

    Subclasses are built with ``(spec, widths, **options)`` and set the class attributes.

    Attributes:
        needs: Which features `forward` takes: ``embedding`` is ``(B, D)``, ``pixels`` is ``(B, D, H, W)`` of every
            pixel, ``detection`` is `umedpt_lightning.blocks.DetectionFeatures`; any other name is that of a block under
            ``model.blocks``.
        main_metric: The entry of `compute` that stands for the task in ``val/score``; higher is better.
        counts_not_finite: Whether `update` counts a sample as wrong whose output is not finite. Where it does not, such
            an output ends the evaluation: metrics would leave the sample out, and so be too good.
        spec: What the data set says of itself.
        lower_is_better: Beginnings of the names of metrics of which less is better.
        linear_family: Which linear model can stand in for the head on embeddings; None where none can. `forward` of
            such a task gives what an `nn.Linear` called ``head`` gives, ``(B, K)``.
        options_that_mean: Options of the constructor that say what outputs mean: a run goes on with the same ones only.
        predicts: Whether there is something to predict for an image; no for a task that only teaches the shared blocks,
            whose `predict` is for pictures of the training.
        nms_threshold: Of two objects of a class that were found in neighbouring tiles of an image and overlap by more
            (IoU), the better stays.
    """

    needs: ClassVar[str]
    main_metric: ClassVar[str]
    counts_not_finite: ClassVar[bool] = False
    spec: TaskSpec
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    linear_family: ClassVar[LinearFamily | None] = None
    options_that_mean: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[bool] = True
    nms_threshold: float = 0.5

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """The metrics, to be found in `metrics`; here, not at the top of a file, is the place to import them."""
        return {}

    @abstractmethod
    def forward(self, features: Any) -> Any:
        """The head's raw output for a micro-batch of features."""

    @abstractmethod
    def loss(self, output: Any, targets: Any) -> Tensor:
        """The mean loss of a micro-batch, a scalar in float32 at least, about 1 for an uninformed prediction."""

    def known(self, targets: Any) -> int | Tensor:
        """How many values `loss` is the mean of: the samples here, for a kind with unknown labels those that are known.

        The loss of a whole part weighs its micro-batches by it.
        """
        return len(targets)

    @abstractmethod
    def update(self, output: Any, targets: Any) -> None:
        """Adds a micro-batch to the metrics."""

    def prepare(self, batch: TaskBatch) -> TaskBatch:
        """The micro-batch as model, loss and metrics see it, of that which the reader gave; on the head's device.

        For tasks that make their targets of the images, or hide a part of them. All that is drawn must follow from the
        batch, so that a round can be read again.
        """
        return batch

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """What a picture shows of a sample's prediction beside its truth: what the label kind says."""
        return self.spec.comparison_view(target, prediction)

    def truth(self, batch: TaskBatch) -> Any:
        """What `update` compares the output for a micro-batch with."""
        return batch.targets

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The metrics of all that was added, NaN where undefined; gathers over ranks."""

    def chart(self) -> Chart | None:
        """What is drawn of all samples that the last `compute` saw, on all ranks; None for nothing."""
        return None

    @abstractmethod
    def predict(self, output: Any) -> Any:
        """The prediction for a micro-batch in the user's terms: probabilities, units, classes, pixels."""

    def predicting(self, name: str) -> Self:
        """The task itself, called `name`; raises ValueError where there is nothing to predict."""
        if not self.predicts:
            raise ValueError(
                f"Task {name!r} taught the shared blocks by images without labels, and has nothing to say of an image. "
                "Choose other tasks, or take `umedpt embed`."
            )
        return self

    def exported(self, output: Any) -> dict[str, Tensor]:
        """The outputs of a graph that is used without Python, by name; tensors with ``B`` first."""
        return {"predictions": self.predict(output)}

    @property
    def has_baseline(self) -> bool:
        """Whether there is a `baseline`; all ranks agree on it, whether or not they have samples of the task."""
        return type(self).baseline is not Task.baseline or hasattr(self, "trivial")

    def baseline(self, targets: BatchTargets) -> Any:
        """The majority baseline: an output like that of `forward` that knows the training labels but sees no image.

        Majority class, mean, empty mask, no box: what a trained head must beat. None where there is none.
        """
        if (older := getattr(self, "trivial", None)) is None:
            return None
        warnings.warn(
            f"{type(self).__name__}.trivial is called `baseline` now; the old name goes with the next release. Rename "
            "the method.",
            FutureWarning,
            stacklevel=2,
        )
        return older(targets)

    def linear_targets(self, targets: NDArray[Any]) -> NDArray[Any]:
        """What the linear model of `linear_family` is fitted to, in terms of the head's output.

        Args:
            targets: ``(N, ...)``.

        Returns:
            Class indices ``(N,)``, labels ``(N, L)`` of 0, 1 and NaN, or numbers ``(N, Q)`` with NaN where unknown.
        """
        return targets

    def linear_weights(self) -> NDArray[np.float64] | None:
        """The weight of each class, or of the positives of each label, in the linear model; None for 1 each."""
        return None

    def answers(self) -> Answers:
        """An empty place for the answers to the samples of a part, which are scored as a whole and in choices."""
        return Answers(self)

    def sample_scores(self, output: Any, targets: Any) -> NDArray[np.float64]:
        """``(B,)`` how good the output is for each sample, the more the better; NaN where its target is unknown.

        Without a better one, the loss with a minus.
        """
        scores = np.full(len(targets), np.nan)
        for row in range(len(targets)):
            one, truth = (picked(value, np.array([row])) for value in (output, targets))
            if not (isinstance(truth, Tensor) and truth.isnan().all()):
                scores[row] = -float(self.loss(one, truth))
        return scores

    def resized(self, prediction: Any, shown: tuple[int, int], wanted: tuple[int, int]) -> Any:
        """One image's prediction for the same image in another size; for most label kinds there is no difference.

        Args:
            prediction: An item of what `predict` returns.
            shown: Height and width of the image that it is for, pixels.
            wanted: Those of the image that it is wanted for.
        """
        return prediction

    def upgrade_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Adds to a state from an earlier release, in place, what it lacks of this task.

        Args:
            state: Tensors by name, those of other modules too.
            prefix: What the names of this task's tensors begin with.
        """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self.upgrade_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return next(self.parameters()).device

    @property
    def metrics(self) -> Any:
        """What `new_metrics` made, made on first use: predicting needs neither them nor the library they are from."""
        if "_metrics" not in self._modules:
            self.add_module("_metrics", nn.ModuleDict(dict(self.new_metrics())).to(self.device))
        return self._modules["_metrics"]

    def reset(self) -> None:
        """Forgets all that was added to the metrics."""
        from torchmetrics import Metric

        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()
