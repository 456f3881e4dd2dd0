"""One class a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn

from umedpt_lightning.tasks.answers import Answers, Rows
from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float
from umedpt_lightning.tasks.cross_entropy import cross_entropy
from umedpt_lightning.types import IGNORE_INDEX, BatchTargets, MaskSpec, to_numpy


class Segmentation(Task):
    """A 1×1 convolution on the pixel embedding with cross-entropy and Dice loss; `IGNORE_INDEX` does not count.

    Metrics, from the confusion matrix of all pixels of the part: ``dice`` and ``iou`` (means over the classes but the
    background), both for every class. A class neither present nor predicted is NaN and left out of the means.

    Args:
        spec: Class names, the background first.
        widths: Channels of the shared features.
        loss: ``ce_dice`` for the mean of cross-entropy and Dice loss, ``ce`` for cross-entropy alone.
        class_weights: A weight a class in the cross-entropy.
        label_smoothing: Probability spread over all classes in the cross-entropy, 0 to 1.

    Raises:
        ValueError: Not one weight a class.
    """

    needs = "pixels"
    main_metric = "dice"
    spec: MaskSpec
    class_weights: Tensor | None

    def __init__(
        self,
        spec: MaskSpec,
        widths: FeatureWidths,
        loss: Literal["ce_dice", "ce"] = "ce_dice",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        classes = len(spec.classes)
        if class_weights is not None and len(class_weights) != classes:
            raise ValueError(f"class_weights has {len(class_weights)} numbers, but there are {classes} classes.")
        self.head = nn.Conv2d(widths.pixels, classes, kernel_size=1)
        weights = None if class_weights is None else torch.tensor([float(w) for w in class_weights])
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.dice_loss = DiceLoss("multiclass", ignore_index=IGNORE_INDEX) if loss == "ce_dice" else None

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``confusion``."""
        from torchmetrics.classification import MulticlassConfusionMatrix

        classes = max(2, len(self.spec.classes))  # as torchmetrics wants; one that never occurs changes nothing
        return {"confusion": MulticlassConfusionMatrix(classes, ignore_index=IGNORE_INDEX)}

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` for a pixel embedding ``(B, D, H, W)``."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over ln K, averaged with Dice loss, of logits ``(B, K, H, W)`` and masks ``(B, H, W)``."""
        output, targets = as_float(output), targets.long()
        entropy = cross_entropy(output, targets, self.class_weights, self.label_smoothing)
        if self.dice_loss is None:
            return entropy
        overlap: Tensor = self.dice_loss(output, targets)
        return (entropy + overlap) / 2

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds logits ``(B, K, H, W)`` and masks ``(B, H, W)``."""
        self.metrics.confusion.update(self.predict(output), targets.long())

    def compute(self) -> dict[str, Tensor]:
        """``dice``, ``iou``, ``dice_<class>``, ``iou_<class>``."""
        return overlap(self.metrics.confusion.compute(), self.spec.classes)

    def predict(self, output: Tensor) -> Tensor:
        """Classes ``(B, H, W)``, uint8 for up to 255 of them and int16 for more."""
        return output.argmax(dim=1).to(torch.uint8 if output.shape[1] <= 255 else torch.int16)

    def exported(self, output: Tensor) -> dict[str, Tensor]:
        """``probabilities`` ``(B, K, H, W)``, which can be blended over tiles; the class is the largest one's."""
        return {"probabilities": as_float(output).softmax(dim=1)}

    def resized(self, prediction: Tensor, shown: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
        """The mask by nearest pixel."""
        if shown == wanted:
            return prediction
        # of integers torch interpolates bytes alone
        values = prediction if prediction.dtype == torch.uint8 else prediction.float()
        return F.interpolate(values[None, None], wanted, mode="nearest-exact")[0, 0].to(prediction.dtype)

    def baseline(self, targets: BatchTargets) -> Tensor:
        """Background everywhere, as logits ``(B, K, H, W)``."""
        if not isinstance(targets, Tensor):
            raise TypeError(f"Masks come as a tensor, not as {type(targets).__name__}.")
        background = torch.eye(len(self.spec.classes), device=self.device)[0]  # (K,)
        return background.view(1, -1, 1, 1).expand(len(targets), -1, *targets.shape[1:])

    def answers(self) -> Answers:
        """With a confusion matrix an image, so that no logits are kept."""
        return MaskAnswers(self)


class MaskAnswers(Answers):
    """Of a segmentation.

    Args:
        task: Whose answers.
    """

    def __init__(self, task: Segmentation) -> None:
        super().__init__(task)
        self._classes = task.spec.classes
        self._confusions: list[Tensor] = []
        self._masks: list[NDArray[Any]] = []

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Adds logits ``(B, K, H, W)`` and masks ``(B, H, W)``."""
        masks, classes = self._task.predict(output), len(self._classes)
        for mask, truth in zip(masks, targets.long(), strict=True):
            known = truth != IGNORE_INDEX
            pairs = truth[known] * classes + mask[known].long()
            self._confusions.append(pairs.bincount(minlength=classes**2).view(classes, classes).cpu())
        self._masks += to_numpy(list(masks))

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """From all pixels of the samples together."""
        confusions = torch.stack(self._confusions)
        chosen = confusions if rows is None else confusions[torch.from_numpy(rows)]
        return {name: float(value) for name, value in overlap(chosen.sum(0), self._classes).items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``score``, the Dice score of each sample, and ``answer_<row>``, its mask ``(H, W)``."""
        dice = [self.score(np.array([row]))["dice"] for row in range(len(self._masks))]
        return {"score": np.array(dice)} | {f"answer_{row}": mask for row, mask in enumerate(self._masks)}

    def prediction(self, arrays: Mapping[str, NDArray[Any]], row: int) -> Any:
        """Its mask."""
        return arrays[f"answer_{row}"]


def overlap(confusion: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """How far predicted and true pixels overlap.

    Args:
        confusion: ``(K, K)`` counts of pixels, rows are the truth.
        classes: Their names, the background first.

    Returns:
        ``dice`` and ``iou``, means over the classes but the background, and both for every class.
    """
    counts = confusion.double()
    hits = counts.diagonal()
    truth, predicted = counts.sum(1), counts.sum(0)
    dice = (2 * hits / (truth + predicted)).float()  # 0 / 0 is NaN: neither there nor predicted
    iou = (hits / (truth + predicted - hits)).float()
    first = 1 if len(classes) > 1 else 0
    metrics = {"dice": dice[first:].nanmean(), "iou": iou[first:].nanmean()}
    for index, name in enumerate(classes[first:], start=first):
        metrics |= {f"dice_{name}": dice[index], f"iou_{name}": iou[index]}
    return metrics
