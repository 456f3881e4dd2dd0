"""One class a pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.tasks.answers import Answers, Rows
from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float
from umedpt_lightning.tasks.cross_entropy import checked_smoothing, checked_weights, cross_entropy
from umedpt_lightning.tasks.dice import dice_loss
from umedpt_lightning.types import IGNORE_INDEX, BatchTargets, MaskSpec, TaskBatch, finite_rows, to_numpy


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
        include_background: Whether the background is one of the classes of the Dice loss. Where there is much of
            it, its Dice is near 1 though nothing is found.

    Raises:
        ValueError: Not one weight a class, or a negative one; without the background no class is left; a smoothing that
            is no share, or another loss.
    """

    needs = "pixels"
    main_metric = "dice"
    counts_not_finite = True
    spec: MaskSpec
    class_weights: Tensor | None

    def __init__(
        self,
        spec: MaskSpec,
        widths: FeatureWidths,
        loss: Literal["ce_dice", "ce"] = "ce_dice",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        include_background: bool = True,
    ) -> None:
        super().__init__()
        self.spec = spec
        classes = len(spec.classes)
        if loss not in ("ce_dice", "ce"):
            raise ValueError(f"loss is {loss!r}, but it must be ce_dice or ce.")
        if not include_background and classes < 2:
            raise ValueError(f"include_background must be true, since there is no class but {spec.classes[0]!r}.")
        self.head = nn.Conv2d(widths.pixels, classes, kernel_size=1)
        weights = None if class_weights is None else checked_weights(class_weights, classes)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = checked_smoothing(label_smoothing)
        self.with_dice = loss == "ce_dice"
        self.first_class = 0 if include_background else 1  # of the Dice loss

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``confusion``."""
        from umedpt_lightning.tasks.pixel_counts import PixelCounts

        return {"confusion": PixelCounts(len(self.spec.classes))}

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, K, H, W)`` for a pixel embedding ``(B, D, H, W)``."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over ln K, averaged with Dice loss, of logits ``(B, K, H, W)`` and masks ``(B, H, W)``."""
        output, targets = as_float(output), targets.long()
        entropy = cross_entropy(output, targets, self.class_weights, self.label_smoothing)
        return (entropy + dice_loss(output, targets, self.first_class)) / 2 if self.with_dice else entropy

    def truth(self, batch: TaskBatch) -> Iterable[Tensor]:
        """The masks in the images' own pixels where the batch has them, one by one."""
        return batch.targets if batch.stored_targets is None else batch.unpack_targets()

    def known(self, targets: Tensor) -> Tensor:
        """As `Task.known`."""
        return (targets != IGNORE_INDEX).sum()

    def update(self, output: Tensor, targets: Iterable[Tensor]) -> None:
        """Adds logits ``(B, K, H, W)`` and masks ``(B, H, W)``, or ``(H, W)`` of any size for each image.

        An image whose logits are not finite counts as wrong at every pixel.
        """
        for pixels in self.pixels(output, targets):
            self.metrics.confusion.update(*pixels)

    def pixels(self, output: Tensor, targets: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The first arguments of `count_pixels` for each image, from those of `update`."""
        shown = (output.shape[2], output.shape[3])
        for mask, truth, finite in zip(self.predict(output), targets, finite_rows(output, len(output)), strict=True):
            yield self.resized(mask, shown, (truth.shape[0], truth.shape[1])), truth, finite

    def compute(self) -> dict[str, Tensor]:
        """``dice``, ``iou``, ``dice_<class>``, ``iou_<class>``."""
        from umedpt_lightning.tasks.pixel_counts import overlap

        classes = self.spec.classes
        # of one class it is a number, as torchmetrics hands it on
        return overlap(self.metrics.confusion.compute().view(len(classes), -1), classes)

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
        self._segmentation, self._classes = task, task.spec.classes
        self._confusions: list[Tensor] = []
        self._masks: list[NDArray[Any]] = []

    def add(self, output: Tensor, targets: Iterable[Tensor]) -> None:
        """Adds logits and masks, see `Segmentation.update`."""
        from umedpt_lightning.tasks.pixel_counts import count_pixels

        pixels = self._segmentation.pixels(output, targets)
        self._confusions += [count_pixels(*image, len(self._classes)).cpu() for image in pixels]
        self._masks += to_numpy(list(self._task.predict(output)))

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """From all pixels of the samples together."""
        from umedpt_lightning.tasks.pixel_counts import overlap

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
