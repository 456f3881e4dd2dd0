"""One contract for all label types, then what is particular to each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import WIDTHS, detection_features, random_target, spec_of
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from umedpt_lightning.tasks import (
    DEFAULT_TASKS,
    Classification,
    Detection,
    Detections,
    FeatureWidths,
    MultilabelClassification,
    Regression,
    Segmentation,
    Task,
)
from umedpt_lightning.tasks.cross_entropy import cross_entropy
from umedpt_lightning.tasks.detection import DetectionOutput
from umedpt_lightning.tasks.dice import dice_loss
from umedpt_lightning.tasks.ranking import log_odds
from umedpt_lightning.types import IGNORE_INDEX, Boxes, BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec

IMAGES, SIDE = 8, 64


@dataclass(frozen=True)
class Case:
    """How to speak with one kind of task."""

    kind: str
    features: Callable[[], Any]
    targets: Callable[[int], Any]
    """Random targets of `IMAGES` images for so many classes, each class present."""
    unlabelled: Callable[[Any], Any]
    """The same targets with nothing known, or with nothing there."""
    perfect: Callable[[Any, int], Any]
    """The output that says exactly the targets."""


def _class_targets(count: int) -> Tensor:
    return torch.arange(IMAGES) % count


def _label_targets(count: int) -> Tensor:
    return torch.stack([(torch.arange(IMAGES) // (i + 1)) % 2 for i in range(count)], 1).float()


def _number_targets(count: int) -> Tensor:
    spec = spec_of("regression", count=count)
    scores = torch.randn(IMAGES, count)
    scores = (scores - scores.mean(0)) / scores.std(0, unbiased=False)
    return scores * torch.tensor(spec.stds) + torch.tensor(spec.means)


def _mask_targets(count: int) -> Tensor:
    return torch.randint(0, count, (IMAGES, SIDE, SIDE), dtype=torch.int16)


def _box_targets(count: int) -> list[Boxes]:
    found = []
    for image in range(IMAGES):
        boxes = torch.tensor([[4.0, 6.0, 20.0, 22.0], [28.0, 30.0, 60.0, 62.0]])
        found.append(Boxes(boxes, torch.tensor([image % count, (image + 1) % count])))
    return found


def perfect_boxes(targets: list[Boxes], classes: int, score: float = 8.0, size: int = 64) -> DetectionOutput:
    """Every box from the one place whose centre is nearest to its own, on a stride of 8."""
    stride, side = 8, size // 8
    centres = torch.arange(side) * 8.0  # torchvision's anchors lie around multiples of the stride
    anchors = torch.stack(
        [torch.stack([x - 4, y - 4, x + 4, y + 4]) for y in centres for x in centres]
    )  # (side * side, 4)
    logits = torch.full((len(targets), side * side, classes), -12.0)
    sides = torch.ones(len(targets), side * side, 4)
    for image, (boxes, labels) in enumerate(targets):
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            column, row = (int(((a + b) / 2 / stride).round()) for a, b in ((x1, x2), (y1, y2)))
            place, x, y = row * side + column, centres[column], centres[row]
            logits[image, place, label] = score
            sides[image, place] = torch.stack([x - x1, y - y1, x2 - x, y2 - y]) / stride
    raw = {"cls_logits": logits, "bbox_regression": sides, "bbox_ctrness": torch.full_like(logits[..., :1], score)}
    return DetectionOutput(raw, anchors, [side * side], (size, size))


def _one_hot_logits(targets: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(targets.long(), count).float() * 40


CASES: dict[type[Task], Case] = {
    Classification: Case(
        "class",
        lambda: torch.randn(IMAGES, WIDTHS.embedding),
        _class_targets,
        lambda t: torch.full_like(t, IGNORE_INDEX),
        _one_hot_logits,
    ),
    MultilabelClassification: Case(
        "multilabel",
        lambda: torch.randn(IMAGES, WIDTHS.embedding),
        _label_targets,
        lambda t: torch.full_like(t, torch.nan),
        lambda t, _: (t * 2 - 1) * 40,
    ),
    Regression: Case(
        "regression",
        lambda: torch.randn(IMAGES, WIDTHS.embedding) / 3,
        _number_targets,
        lambda t: torch.full_like(t, torch.nan),
        lambda t, count: (
            (t - torch.tensor(spec_of("regression", count=count).means))
            / torch.tensor(spec_of("regression", count=count).stds)
        ),
    ),
    Segmentation: Case(
        "mask",
        lambda: torch.randn(IMAGES, WIDTHS.pixels, SIDE, SIDE),
        _mask_targets,
        lambda t: torch.full_like(t, IGNORE_INDEX),
        lambda t, count: _one_hot_logits(t, count).permute(0, 3, 1, 2),
    ),
    Detection: Case(
        "box",
        lambda: detection_features(IMAGES, SIDE),
        _box_targets,
        lambda t: [Boxes(b.boxes[:0], b.labels[:0]) for b in t],
        perfect_boxes,
    ),
}


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


#: Held by test_survival.py, since what is said of its losses and scores is of times and events; and by
#: test_unlabelled.py, since these make their targets of the images.
ELSEWHERE = {"Survival", "ImitateEmbedding", "ImitateMaps", "MaskedImages"}
TASKS = sorted(
    {t for t in _subclasses(Task) if t.__module__.startswith("umedpt_lightning.") and not inspect.isabstract(t)},
    key=lambda t: t.__name__,
)
TASKS = [t for t in TASKS if t.__name__ not in ELSEWHERE]
any_task = pytest.mark.parametrize("cls", TASKS, ids=lambda t: t.__name__)
any_count = pytest.mark.parametrize("count", [1, 2, 5])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(cls: type[Task], count: int = 3, **options: Any) -> Task:
    return cls(spec_of(CASES[cls].kind, count=count), WIDTHS, **options)  # type: ignore[call-arg]


def scored(task: Task, *batches: tuple[Any, Any]) -> dict[str, float]:
    task.reset()
    for output, targets in batches:
        task.update(output, targets)
    return {name: float(value) for name, value in task.compute().items()}


def part(batch: Any, which: slice) -> Any:
    """Some images of targets or of an output."""
    if isinstance(batch, DetectionOutput):
        return replace(batch, raw={key: value[which] for key, value in batch.raw.items()})
    return batch[which]


# --- the contract ---------------------------------------------------------------------------------------------------


@any_task
def test_every_label_type_has_a_case_here_and_is_some_specs_default(cls: type[Task]) -> None:
    assert cls in CASES
    assert cls in DEFAULT_TASKS.values()
    assert cls.needs in ("embedding", "pixels", "detection")


@any_task
@any_count
def test_the_loss_of_a_fresh_head_is_about_one(cls: type[Task], count: int) -> None:
    if count == 1 and cls is Classification:
        pytest.skip("with one class there is nothing to be uninformed about")
    losses = []
    for _ in range(5):
        task = build(cls, count)
        losses.append(task.loss(task(CASES[cls].features()), CASES[cls].targets(count)).item())
    # one class a pixel leaves only the Dice half of the loss, which then has nothing to be wrong about
    lowest = 0.0 if (cls, count) == (Segmentation, 1) else 0.5
    assert lowest <= np.mean(losses) <= 1.6


@any_task
@any_count
def test_the_loss_is_a_finite_float32_scalar_in_bfloat16_too(cls: type[Task], count: int) -> None:
    task, case = build(cls, count), CASES[cls]
    features = case.features()
    plain = task.loss(task(features), case.targets(count))
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = task.loss(task(features), case.targets(count))
    for loss in (plain, mixed):
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()


@any_task
@any_count
def test_where_nothing_is_labelled_loss_and_gradients_are_finite_and_metrics_do_not_fail(
    cls: type[Task], count: int
) -> None:
    task, case = build(cls, count), CASES[cls]
    nothing = case.unlabelled(case.targets(count))
    output = task(case.features())
    loss = task.loss(output, nothing)
    loss.backward()
    assert loss.isfinite()
    if cls is not Detection:  # no box is a label too: it says there is none
        assert loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    assert math.isnan(scored(task, (output, nothing))[cls.main_metric])


@any_task
def test_metrics_of_nothing_at_all_are_nan(cls: type[Task]) -> None:
    task = build(cls)
    metrics = task.compute()
    assert cls.main_metric in metrics
    assert math.isnan(metrics[cls.main_metric])


@any_task
@pytest.mark.parametrize("count", [2, 5])
def test_perfect_predictions_score_one_and_an_error_of_zero(cls: type[Task], count: int) -> None:
    case = CASES[cls]
    targets = case.targets(count)
    for name, value in scored(build(cls, count), (case.perfect(targets, count), targets)).items():
        assert value == pytest.approx(0 if name.startswith("mae") else 1, abs=1e-5), name


@pytest.mark.parametrize("cls", [t for t in TASKS if t is not Detection])  # one place a box says nothing of the others
@pytest.mark.parametrize("count", [2, 5])
def test_perfect_predictions_have_a_smaller_loss_than_fresh_ones(cls: type[Task], count: int) -> None:
    case, task = CASES[cls], build(cls, count)
    targets = case.targets(count)
    assert task.loss(case.perfect(targets, count), targets) < 0.3 * task.loss(task(case.features()), targets)


@any_task
def test_all_metrics_are_scalars_and_name_the_main_one(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    with torch.no_grad():
        task.update(task(case.features()), case.targets(3))
    metrics = task.compute()
    assert cls.main_metric in metrics
    assert all(isinstance(v, Tensor) and v.shape == () for v in metrics.values())


@any_task
@any_count
def test_the_majority_baseline_goes_the_way_of_any_output(cls: type[Task], count: int) -> None:
    task, case = build(cls, count), CASES[cls]
    targets = case.targets(count)
    output = task.baseline(targets)
    metrics = scored(task, (output, targets))
    assert not math.isnan(metrics[cls.main_metric]) or count == 1
    assert len(task.predict(output)) == IMAGES


@any_task
@pytest.mark.parametrize("count", [2, 5])
def test_a_perfect_output_beats_the_majority_baseline(cls: type[Task], count: int) -> None:
    task, case = build(cls, count), CASES[cls]
    targets = case.targets(count)
    baseline = scored(task, (task.baseline(targets), targets))[cls.main_metric]
    assert baseline < 0.9
    assert baseline < scored(task, (case.perfect(targets, count), targets))[cls.main_metric]


@any_task
@any_count
def test_every_parameter_of_the_head_gets_a_gradient(cls: type[Task], count: int) -> None:
    task, case = build(cls, count), CASES[cls]
    task.loss(task(case.features()), case.targets(count)).backward()
    parameters = dict(task.named_parameters())
    assert parameters
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        if count > 1:
            assert parameter.grad.abs().max() > 0, name


@any_task
def test_steps_down_the_gradient_lower_the_loss(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    features, targets = case.features(), case.targets(3)
    optimizer = torch.optim.Adam(task.parameters(), 0.03)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = task.loss(task(features), targets)
        loss.backward(retain_graph=True)  # the features' own graph stays
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]


@any_task
def test_reset_forgets_everything(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    targets = case.targets(3)
    task.update(task.baseline(targets), targets)
    task.reset()
    afresh = scored(task, (case.perfect(targets, 3), targets))
    assert afresh[cls.main_metric] == pytest.approx(1)


@any_task
def test_metrics_do_not_depend_on_how_the_samples_are_cut_into_batches(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    targets = case.targets(3)
    with torch.no_grad():
        output = task(case.features())
    whole = scored(task, (output, targets))
    cuts = (slice(0, 3), slice(3, 4), slice(4, None))
    cut = scored(task, *((part(output, c), part(targets, c)) for c in cuts))
    assert cut == pytest.approx(whole, abs=1e-5, nan_ok=True)


@any_task
def test_metrics_are_no_part_of_the_state(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    before = set(task.state_dict())
    targets = case.targets(3)
    task.update(case.perfect(targets, 3), targets)
    assert set(task.state_dict()) == before


@any_task
def test_losses_of_float64_are_not_rounded_to_float32(cls: type[Task]) -> None:
    task, case = build(cls).double(), CASES[cls]
    targets = case.targets(3)
    output = case.perfect(targets, 3)
    if isinstance(output, DetectionOutput):
        output = replace(output, raw={k: v.double() * 0.1 for k, v in output.raw.items()})
    else:
        output = output.double() * 0.1
    assert task.loss(output, targets).dtype == torch.float64


@any_task
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("count", [2, 5])
def test_an_output_that_is_not_finite_counts_as_wrong(cls: type[Task], value: float, count: int) -> None:
    case, task = CASES[cls], build(cls, count)
    targets = case.targets(count)
    output = case.perfect(targets, count)
    for values in output.raw.values() if isinstance(output, DetectionOutput) else [output]:
        values[3:5, ..., 0] = value  # one number of many is enough
    assert cls.counts_not_finite
    found = scored(task, (output, targets))
    assert found[cls.main_metric] < 0.95, "without these images it would be 1"
    assert all(not math.isnan(v) and math.isfinite(v) for v in found.values())
    broken = scored(task, (part(output, slice(3, 5)), part(targets, slice(3, 5))))
    # of two images there may be no area, and where both are wrong a class may tie
    assert math.isnan(broken[cls.main_metric]) or broken[cls.main_metric] < 0.5


# --- classification -------------------------------------------------------------------------------------------------


def pair_auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs of a positive and a negative in the right order; a tie is half a pair."""
    up, down = scores[positive][:, None], scores[~positive][None]
    return float(((up > down) + 0.5 * (up == down)).mean())


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Sum of precision times the step in recall over thresholds from high to low."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        now = (taken & positive).sum() / positive.sum()
        total += (taken & positive).sum() / taken.sum() * (now - recall)
        recall = now
    return float(total)


def test_classification_metrics_agree_with_counting() -> None:
    logits = torch.randn(50, 4).round(decimals=1)
    targets = torch.randint(0, 3, (50,))  # the last class never occurs
    found = scored(build(Classification, 4), (logits, targets))
    probabilities, truth = logits.softmax(1).numpy(), targets.numpy()
    assert found["auroc"] == pytest.approx(np.mean([pair_auroc(probabilities[:, k], truth == k) for k in range(3)]))
    guess = probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx((guess == truth).mean())
    f1 = []
    for k in range(4):  # the last class is predicted sometimes, wrongly: 0
        hits = ((guess == k) & (truth == k)).sum()
        f1.append(2 * hits / ((guess == k).sum() + (truth == k).sum()))
    assert found["f1"] == pytest.approx(np.mean(f1))


def test_a_class_neither_there_nor_predicted_changes_no_classification_metric() -> None:
    logits, targets = torch.randn(30, 3), torch.arange(30) % 3
    more = torch.cat([logits, torch.full((30, 2), -50.0)], 1)
    few, many = scored(build(Classification, 3), (logits, targets)), scored(build(Classification, 5), (more, targets))
    assert many == pytest.approx(few, abs=1e-6)


def test_with_one_class_accuracy_is_one_and_the_area_undefined() -> None:
    task = build(Classification, 1)
    targets = torch.zeros(4, dtype=torch.long)
    found = scored(task, (torch.randn(4, 1), targets))
    assert found["accuracy"] == 1
    assert math.isnan(found["auroc"])
    assert task.loss(torch.randn(4, 1), targets) == 0


def test_ignored_images_change_neither_loss_nor_gradient_nor_metrics() -> None:
    task = build(Classification)
    embedding, targets = torch.randn(10, WIDTHS.embedding), torch.arange(10) % 3
    targets[[2, 7]] = IGNORE_INDEX
    known = targets != IGNORE_INDEX
    results = []
    for features, labels in ((embedding, targets), (embedding[known], targets[known])):
        task.zero_grad()
        loss = task.loss(task(features), labels)
        loss.backward()
        results.append((loss.detach(), task.head.weight.grad.clone(), scored(task, (task(features), labels))))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][2] == pytest.approx(results[1][2])


def test_the_uninformed_classifier_has_a_loss_of_one_for_any_number_of_classes() -> None:
    for count in (2, 3, 10, 100):
        loss = build(Classification, count).loss(torch.zeros(7, count), torch.arange(7) % count)
        assert float(loss) == pytest.approx(1)


def test_renaming_classes_changes_no_classification_metric() -> None:
    logits, targets = torch.randn(40, 4), torch.randint(0, 4, (40,))
    order = torch.tensor([2, 0, 3, 1])
    task = build(Classification, 4)
    renamed = scored(task, (logits[:, order], order.argsort()[targets]))
    assert renamed == pytest.approx(scored(task, (logits, targets)))


def test_a_class_weight_of_zero_makes_a_class_unimportant() -> None:
    task = build(Classification, 3, class_weights=[1, 1, 0])
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    changed = logits.clone()
    changed[targets == 2] += torch.randn(3)
    assert task.loss(changed, targets) == task.loss(logits, targets)
    assert build(Classification, 3).loss(changed, targets) != build(Classification, 3).loss(logits, targets)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 0.0], [1.0, 1e-6, 1e-12], [1.0, 1000.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_weights_of_classes_make_a_loss_large(weights: list[float], smoothing: float) -> None:
    for cls, shape in ((Classification, ()), (Segmentation, (4, 4))):
        task = build(cls, 3, class_weights=weights, label_smoothing=smoothing, **({"loss": "ce"} if shape else {}))
        logits = torch.randn(6, 3, *shape)
        for label in range(3):
            worst = F.cross_entropy(logits, torch.full((6, *shape), label), reduction="none").max()
            for other in range(3):
                worst = max(worst, F.cross_entropy(logits, torch.full((6, *shape), other), reduction="none").max())
            loss = task.loss(logits, torch.full((6, *shape), label))
            assert 0 <= loss <= 2 * worst / math.log(3), (weights, label)


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0]])
@pytest.mark.parametrize("cls", [Classification, Segmentation])
def test_weights_that_say_nothing_are_refused(cls: type[Task], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="class_weights must be 0 or more"):
        build(cls, 3, class_weights=weights)


def test_balanced_weights_are_bounded() -> None:
    spec = ClassSpec(channels=1, classes=("a", "b", "c"), counts=(1_000_000, 1_000, 1))
    weights = Classification(spec, WIDTHS, class_weights="balanced").class_weights
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 100.0, 100.0]))
    spec = MultilabelSpec(channels=1, labels=("a", "b"), counts=(1, 500), known=(12_501, 1_000))
    task = MultilabelClassification(spec, WIDTHS, positive_weights="balanced")
    torch.testing.assert_close(task.positive_weights, torch.tensor([100.0, 1.0]))
    with pytest.raises(ValueError, match="positive_weights must be 0 or more"):
        MultilabelClassification(spec, WIDTHS, positive_weights=[-1.0, 1.0])


def test_balanced_weights_give_every_class_the_same_total() -> None:
    counts = (60, 30, 10)
    spec = ClassSpec(channels=1, classes=("a", "b", "c"), counts=counts)
    weights = Classification(spec, WIDTHS, class_weights="balanced").class_weights
    totals = weights * torch.tensor(counts)
    torch.testing.assert_close(totals, totals[:1].expand(3))
    absent = replace(spec, counts=(60, 40, 0))
    assert Classification(absent, WIDTHS, class_weights="balanced").class_weights.isfinite().all()


def test_label_smoothing_punishes_certainty() -> None:
    targets = torch.arange(6) % 3
    sure = _one_hot_logits(targets, 3)
    assert build(Classification).loss(sure, targets) < 1e-6
    assert build(Classification, label_smoothing=0.1).loss(sure, targets) > 0.5


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (Classification, {"class_weights": [1.0, 2.0]}, "class_weights has 2 numbers, but there are 3 classes"),
        (Segmentation, {"class_weights": [1.0] * 4}, "class_weights has 4 numbers, but there are 3 classes"),
        (MultilabelClassification, {"positive_weights": [1.0]}, "positive_weights has 1 numbers, but there are 3 lab"),
    ],
)
def test_a_wrong_number_of_weights_is_refused(cls: type[Task], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(cls, 3, **options)


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (Classification, {"label_smoothing": 1.5}, "label_smoothing must be 0 to 1, but it is 1.5"),
        (
            Classification,
            {"class_weights": "balance"},
            "class_weights is 'balance', but it must be a list",
        ),
        (Segmentation, {"label_smoothing": -0.1}, "label_smoothing must be 0 to 1, but it is -0.1"),
        (Segmentation, {"loss": "dice"}, "loss is 'dice', but it must be ce_dice or ce"),
        (Detection, {"score_threshold": 5.0}, "score_threshold must be 0 to 1, but it is 5"),
        (Detection, {"nms_threshold": math.nan}, "nms_threshold must be 0 to 1, but it is nan"),
        (Detection, {"max_detections": 0}, "max_detections must be 1 or more, but it is 0"),
    ],
)
def test_an_option_that_means_nothing_is_refused_when_the_head_is_built(
    cls: type[Task], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(cls, 3, **options)


def test_balanced_weights_need_counts_and_regression_needs_statistics() -> None:
    with pytest.raises(ValueError, match="give a list"):
        Classification(ClassSpec(channels=1, classes=("a", "b")), WIDTHS, class_weights="balanced")
    with pytest.raises(ValueError, match="give a list"):
        MultilabelClassification(MultilabelSpec(channels=1, labels=("a",)), WIDTHS, positive_weights="balanced")
    with pytest.raises(ValueError, match="means and standard deviations"):
        Regression(RegressionSpec(channels=1, quantities=("a",), units=("",)), WIDTHS)


def test_the_baseline_of_classes_names_the_majority() -> None:
    spec = ClassSpec(channels=1, classes=("a", "b", "c"), counts=(1, 0, 3))
    task = Classification(spec, WIDTHS)
    probabilities = task.predict(task.baseline(torch.zeros(2, dtype=torch.long)))
    torch.testing.assert_close(probabilities, torch.tensor([[0.25, 0.0, 0.75]] * 2))


def test_probabilities_that_saturate_do_not_tie() -> None:
    # in float32 each of these has a probability of exactly 1 or 0
    sure = torch.tensor([40.0, 60.0, 50.0, 90.0])
    targets = torch.tensor([0, 1, 0, 1])
    for sign in (1, -1):
        logits = torch.stack([torch.zeros(4), sign * sure, torch.full((4,), -200.0)], 1)
        assert scored(build(Classification, 3), (logits, targets))["auroc"] == (1 if sign > 0 else 0)
        found = scored(build(MultilabelClassification, 1), (sign * sure[:, None], targets[:, None].float()))
        assert found["auroc"] == (1 if sign > 0 else 0)
        assert found["ap"] == pytest.approx(1 if sign > 0 else (1 / 3 + 2 / 4) / 2)


def test_log_odds_are_those_of_the_softmax_and_equal_for_equal_numbers_in_another_order() -> None:
    logits = torch.randn(50, 6).double() * 3
    shares = logits.softmax(1)
    torch.testing.assert_close(log_odds(logits), shares.log() - (1 - shares).log())
    order = torch.tensor([0, 3, 1, 5, 2, 4])
    torch.testing.assert_close(log_odds(logits[:, order])[:, 0], log_odds(logits)[:, 0], rtol=0, atol=0)
    never = torch.tensor([[0.0, -torch.inf, 1.0], [1.0, 1.0, -torch.inf]])
    assert log_odds(never)[:, 1].tolist() == [-torch.inf, 0.0]


# --- multilabel -----------------------------------------------------------------------------------------------------


def test_multilabel_metrics_agree_with_counting_where_some_are_unknown() -> None:
    logits = torch.randn(60, 4).round(decimals=1)
    targets = torch.randint(0, 2, (60, 4)).float()
    targets[torch.rand(60, 4) < 0.3] = torch.nan
    targets[:, 2] = torch.where(targets[:, 2].isnan(), torch.nan, 0.0)  # never seen positive
    targets[:, 3] = torch.nan  # never seen
    found = scored(build(MultilabelClassification, 4), (logits, targets))
    areas, precisions = [], []
    for label in (0, 1):
        known = ~targets[:, label].isnan()
        score, truth = logits[known, label].sigmoid().numpy(), targets[known, label].numpy() == 1
        areas.append(pair_auroc(score, truth))
        precisions.append(average_precision(score, truth))
        assert found[f"auroc_n{label}"] == pytest.approx(areas[-1])
        assert found[f"ap_n{label}"] == pytest.approx(precisions[-1])
    assert found["auroc"] == pytest.approx(np.mean(areas))
    assert found["ap"] == pytest.approx(np.mean(precisions))
    assert all(math.isnan(found[f"{metric}_n{label}"]) for metric in ("auroc", "ap") for label in (2, 3))


@pytest.mark.parametrize("cls", [MultilabelClassification, Regression])
def test_the_output_for_an_unknown_number_changes_neither_loss_nor_gradient_nor_metrics(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    targets = case.targets(3)
    unknown = torch.rand(targets.shape) < 0.4
    targets[unknown] = torch.nan
    output = torch.randn(targets.shape)
    changed = torch.where(unknown, torch.randn(targets.shape) * 5, output)
    results = []
    for raw in (output, changed):
        raw.requires_grad_()
        loss = task.loss(raw, targets)
        (gradient,) = torch.autograd.grad(loss, raw)
        results.append((loss.detach(), gradient, scored(task, (raw.detach(), targets))))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[0][1][unknown] == 0).all()
    assert results[0][2] == pytest.approx(results[1][2], nan_ok=True)


@pytest.mark.parametrize("cls", [MultilabelClassification, Regression])
def test_the_loss_is_the_mean_over_the_known_numbers_alone(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    output, targets = torch.randn(IMAGES, 3), case.targets(3)
    unknown = targets.clone()
    unknown[:, 1:] = torch.nan
    unknown[2:, 0] = torch.nan
    of_two = [float(task.loss(output[i : i + 1], unknown[i : i + 1])) for i in range(2)]
    assert task.loss(output, unknown) == pytest.approx(sum(of_two) / 2)
    assert min(of_two) > 0


def test_a_positive_weight_scales_the_loss_of_positives_only() -> None:
    logits = torch.randn(6, 2)
    plain, heavy = build(MultilabelClassification, 2), build(MultilabelClassification, 2, positive_weights=[3, 3])
    torch.testing.assert_close(heavy.loss(logits, torch.ones(6, 2)), 3 * plain.loss(logits, torch.ones(6, 2)))
    torch.testing.assert_close(heavy.loss(logits, torch.zeros(6, 2)), plain.loss(logits, torch.zeros(6, 2)))


def test_balanced_positive_weights_are_negatives_over_positives_among_the_known() -> None:
    spec = MultilabelSpec(channels=1, labels=("a", "b", "c"), counts=(2, 5, 0), known=(10, 10, 4))
    weights = MultilabelClassification(spec, WIDTHS, positive_weights="balanced").positive_weights
    torch.testing.assert_close(weights, torch.tensor([4.0, 1.0, 4.0]))


def test_the_baseline_of_labels_is_the_share_of_positives() -> None:
    spec = MultilabelSpec(channels=1, labels=("a", "b"), counts=(2, 0), known=(8, 8))
    task = MultilabelClassification(spec, WIDTHS)
    shares = task.predict(task.baseline(torch.zeros(3, 2)))
    torch.testing.assert_close(shares, torch.tensor([[0.25, 0.0]] * 3), atol=1e-5, rtol=0)


# --- regression -----------------------------------------------------------------------------------------------------


def test_regression_metrics_agree_with_their_formulas_where_some_are_unknown() -> None:
    task = build(Regression, 2)
    output, targets = torch.randn(40, 2), _number_targets(2).repeat(5, 1) + torch.randn(40, 2)
    targets[torch.rand(40, 2) < 0.3] = torch.nan
    found = scored(task, (output, targets))
    said, truth = task.predict(output).double().numpy(), targets.double().numpy()
    scores = []
    for q in range(2):
        known = ~np.isnan(truth[:, q])
        x, y = said[known, q], truth[known, q]
        scores.append(1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        assert found[f"r2_n{q}"] == pytest.approx(scores[-1], rel=1e-4)
        assert found[f"mae_n{q}"] == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
    assert found["r2"] == pytest.approx(np.mean(scores), rel=1e-4)


def test_saying_the_mean_has_a_loss_of_one_and_an_r2_of_zero_whatever_the_unit() -> None:
    for scale in (1e-3, 1.0, 1e4):
        numbers = torch.randn(200, 1) * scale + 5 * scale
        spec = RegressionSpec(
            channels=1,
            quantities=("q",),
            units=("",),
            means=(float(numbers.mean()),),
            stds=(float(numbers.std(unbiased=False)),),
        )
        task = Regression(spec, WIDTHS)
        output = task.baseline(numbers)
        assert float(task.loss(output, numbers)) == pytest.approx(1, rel=1e-3)
        assert scored(task, (output, numbers))["r2"] == pytest.approx(0, abs=1e-3)


def test_a_quantity_that_never_varies_is_finite() -> None:
    spec = RegressionSpec(channels=1, quantities=("q",), units=("",), means=(3.0,), stds=(0.0,))
    task = Regression(spec, WIDTHS)
    assert task.loss(torch.randn(4, 1), torch.full((4, 1), 3.0)).isfinite()
    assert torch.equal(task.predict(torch.zeros(4, 1)), torch.full((4, 1), 3.0))


def test_r2_of_a_single_sample_is_undefined_but_its_error_is_not() -> None:
    found = scored(build(Regression, 1), (torch.zeros(1, 1), torch.tensor([[12.0]])))
    assert math.isnan(found["r2"])
    assert found["mae_n0"] == pytest.approx(2.0)


@pytest.mark.parametrize(("mean", "std"), [(10.0, 2000.0), (-3000.0, 1.0)], ids=["outliers in train", "shifted"])
def test_r2_is_that_of_the_samples_wherever_the_training_part_lay(mean: float, std: float) -> None:
    spec = RegressionSpec(channels=1, quantities=("q",), units=("",), means=(mean,), stds=(std,))
    truth = torch.randn(40, 1, dtype=torch.float64)
    said = truth + torch.randn(40, 1) * 0.7
    expected = 1 - (said - truth).square().sum() / (truth - truth.mean()).square().sum()
    batches = zip(((said - mean) / std).split(7), truth.float().split(7), strict=True)
    assert scored(Regression(spec, WIDTHS), *batches)["r2"] == pytest.approx(float(expected), abs=0.01)


@pytest.mark.parametrize("said", [0.0, 1.0])
def test_r2_of_one_number_many_times_is_undefined(said: float) -> None:
    found = scored(build(Regression, 1), (torch.full((5, 1), said), torch.full((5, 1), 12.0)))
    assert math.isnan(found["r2"])


def test_the_units_travel_with_the_state() -> None:
    trained = build(Regression, 1)
    other = Regression(replace(spec_of("regression", count=1), means=(0.0,), stds=(1.0,)), WIDTHS)
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other.predict(torch.ones(1, 1)), trained.predict(torch.ones(1, 1)))


# --- segmentation ---------------------------------------------------------------------------------------------------


def test_segmentation_metrics_agree_with_sets_of_pixels() -> None:
    logits, masks = torch.randn(3, 4, 9, 11), torch.randint(0, 4, (3, 9, 11), dtype=torch.int16)
    masks[torch.rand(masks.shape) < 0.2] = IGNORE_INDEX
    found = scored(build(Segmentation, 4), (logits, masks))
    guess = logits.argmax(1)
    places = {tuple(p.tolist()) for p in (masks != IGNORE_INDEX).nonzero()}
    dice, iou = [], []
    for k in range(1, 4):
        said = {tuple(p.tolist()) for p in (guess == k).nonzero()} & places
        true = {tuple(p.tolist()) for p in (masks == k).nonzero()}
        dice.append(2 * len(said & true) / (len(said) + len(true)))
        iou.append(len(said & true) / len(said | true))
        assert found[f"dice_n{k}"] == pytest.approx(dice[-1])
        assert found[f"iou_n{k}"] == pytest.approx(iou[-1])
    assert found["dice"] == pytest.approx(np.mean(dice))
    assert found["iou"] == pytest.approx(np.mean(iou))
    assert not any(name.endswith("n0") for name in found)


def test_a_class_neither_there_nor_predicted_is_left_out_and_one_predicted_wrongly_is_zero() -> None:
    masks = torch.ones(1, 4, 4, dtype=torch.int16)
    masks[0, 0] = 0
    right = CASES[Segmentation].perfect(masks, 4)
    found = scored(build(Segmentation, 4), (right, masks))
    assert found["dice"] == 1
    assert math.isnan(found["dice_n2"])
    wrong = right.clone()
    wrong[0, 2, 3, 3] = 99
    found = scored(build(Segmentation, 4), (wrong, masks))
    assert found["dice_n2"] == 0
    assert found["dice"] < 0.6


@pytest.mark.parametrize(("count", "first"), [(1, 0), (2, 0), (5, 0), (2, 1), (5, 1)])
def test_the_dice_loss_is_that_of_segmentation_models_pytorch(count: int, first: int) -> None:
    logits, masks = torch.randn(3, count, 9, 11, requires_grad=True), torch.randint(0, count, (3, 9, 11))
    masks[masks == 4] = 0  # a class that is nowhere
    masks[torch.rand(masks.shape) < 0.2] = IGNORE_INDEX
    reference = DiceLoss("multiclass", classes=list(range(first, count)), ignore_index=IGNORE_INDEX)
    ours, theirs = dice_loss(logits, masks, first), reference(logits, masks)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_no_truth_of_numbers_for_each_class_and_pixel_is_made() -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dtype == torch.int64:
                largest = max(largest, result.numel())
            return result

    masks = torch.randint(0, 5, (2, 16, 16))
    task = build(Segmentation, 5)
    with Watch():
        task.loss(torch.randn(2, 5, 16, 16), masks)
    assert 0 < largest <= masks.numel()


@pytest.mark.parametrize("size", [(18, 22), (5, 31), (9, 11)])
def test_masks_in_the_images_own_pixels_are_compared_with_predictions_of_their_size(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, 9, 11)
    masks = [torch.randint(0, 3, size, dtype=torch.int16), torch.randint(0, 3, (40, 30), dtype=torch.int16)]
    task = build(Segmentation, 3)
    said = [
        task.resized(mask, (9, 11), tuple(truth.shape)) for mask, truth in zip(task.predict(logits), masks, strict=True)
    ]
    flat = torch.cat([m.flatten() for m in said]).long(), torch.cat([m.flatten() for m in masks]).long()
    expected = scored(task, (F.one_hot(flat[0], 3).T[None, :, :, None].float(), flat[1][None, :, None]))
    assert scored(task, (logits, masks)) == pytest.approx(expected)


def test_ignored_pixels_change_neither_loss_nor_gradient_nor_metrics() -> None:
    for loss_name in ("ce", "ce_dice"):
        task = build(Segmentation, 3, loss=loss_name)
        masks = torch.randint(0, 3, (2, 8, 8), dtype=torch.int16)
        ignored = torch.rand(masks.shape) < 0.3
        masks[ignored] = IGNORE_INDEX
        output = torch.randn(2, 3, 8, 8)
        changed = torch.where(ignored[:, None], torch.randn(2, 3, 8, 8) * 5, output)
        results = []
        for raw in (output, changed):
            raw.requires_grad_()
            loss = task.loss(raw, masks)
            (gradient,) = torch.autograd.grad(loss, raw)
            results.append((loss.detach(), gradient, scored(task, (raw.detach(), masks))))
        torch.testing.assert_close(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])
        assert results[0][1].movedim(1, -1)[ignored].abs().max() == 0
        assert results[0][2] == pytest.approx(results[1][2])


def test_renaming_foreground_classes_changes_no_mean_of_segmentation() -> None:
    logits, masks = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    order = torch.tensor([0, 3, 1, 2])
    task = build(Segmentation, 4)
    before, after = scored(task, (logits, masks)), scored(task, (logits[:, order], order.argsort()[masks]))
    for metric in ("dice", "iou"):
        assert after[metric] == pytest.approx(before[metric])


def test_segmentation_options_have_an_effect() -> None:
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    plain = build(Segmentation, 3).loss(logits, masks)
    for options in (
        {"loss": "ce"},
        {"class_weights": [1, 5, 1]},
        {"label_smoothing": 0.3},
        {"include_background": False},
    ):
        assert build(Segmentation, 3, **options).loss(logits, masks) != plain, options
    zero_weight = build(Segmentation, 3, loss="ce", class_weights=[1, 1, 0])
    changed = torch.where((masks == 2)[:, None], torch.randn(2, 3, 8, 8), logits)
    torch.testing.assert_close(zero_weight.loss(changed, masks), zero_weight.loss(logits, masks))


def test_without_the_background_finding_nothing_is_all_wrong() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    masks[:, :2, :2] = 1
    nothing = 20 * F.one_hot(torch.zeros_like(masks), 2).movedim(-1, 1).float()
    entropy = build(Segmentation, 2, loss="ce").loss(nothing, masks)
    without = build(Segmentation, 2, include_background=False).loss(nothing, masks)
    torch.testing.assert_close(2 * without - entropy, torch.tensor(1.0))
    assert 2 * build(Segmentation, 2).loss(nothing, masks) - entropy < 0.52  # half of it is the background
    with pytest.raises(ValueError, match="no class but 'n0'"):
        build(Segmentation, 1, include_background=False)


@pytest.mark.parametrize("include_background", [True, False])
def test_a_mask_without_any_pixel_of_a_class_leaves_the_loss_finite(include_background: bool) -> None:
    task = build(Segmentation, 3, include_background=include_background)
    assert task.loss(torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int16)).isfinite()


@pytest.mark.parametrize("classes", [255, 256, 1000])
def test_every_class_fits_in_the_predicted_mask(classes: int) -> None:
    logits = torch.zeros(1, classes, 4, 6)
    logits[:, -1, :2] = 1
    task = build(Segmentation, classes)
    (mask,) = task.predict(logits)
    assert mask.dtype == (torch.uint8 if classes <= 255 else torch.int16)
    assert (mask[:2] == classes - 1).all()
    assert (mask[2:] == 0).all()
    assert torch.equal(task.resized(mask, (4, 6), (8, 12)), mask.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("cls", [Classification, Segmentation])
def test_class_255_is_learned_as_any_other(cls: type[Task]) -> None:
    task = build(cls, 300)
    shape = (2,) if cls is Classification else (2, 4, 4)
    targets = torch.full(shape, 255)
    output = torch.zeros(2, 300, *shape[1:], requires_grad=True)
    task.loss(output, targets).backward()
    assert output.grad is not None
    assert (output.grad[:, 255] < 0).all()
    found = scored(task, (torch.nn.functional.one_hot(targets, 300).movedim(-1, 1).float(), targets))
    assert found["accuracy" if cls is Classification else "dice_n255"] == 1


# --- detection ------------------------------------------------------------------------------------------------------


def _boxes(*rows: tuple[float, float, float, float, int]) -> Boxes:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Boxes(table[:, :4], table[:, 4].long())


def test_map50_of_a_case_worked_out_by_hand() -> None:
    # Class 0: 2 true boxes, one found with the best score and one missed, a false one between: precision is 1 up to
    # recall 1/2 and 0 beyond: 51 of the 101 recall points of COCO. Class 1: found. Class 2: never there.
    truth = [_boxes((8, 8, 24, 24, 0), (40, 40, 56, 56, 0)), _boxes((8, 8, 24, 24, 1))]
    said = [_boxes((8, 8, 24, 24, 0)), _boxes((8, 8, 24, 24, 1), (40, 8, 56, 24, 0))]
    output = perfect_boxes(said, 3)
    found = scored(build(Detection), (output, truth))
    assert found["map50"] == pytest.approx((51 / 101 + 1) / 2, abs=1e-4)


def test_a_box_that_overlaps_by_a_little_more_than_a_half_counts_at_one_of_the_ten_thresholds() -> None:
    truth, said = [_boxes((8, 8, 40, 40, 0))], [_boxes((8, 8, 40, 25, 0))]  # IoU 17 / 32
    found = scored(build(Detection, 1), (perfect_boxes(said, 1), truth))
    assert found == pytest.approx({"map50": 1.0, "map": 0.1}, abs=1e-5)


def test_a_class_with_false_boxes_only_does_not_count_and_a_missed_class_is_zero() -> None:
    truth = [_boxes((8, 8, 24, 24, 0), (40, 40, 56, 56, 1))]
    said = [_boxes((8, 8, 24, 24, 0), (40, 8, 56, 24, 2))]
    assert scored(build(Detection), (perfect_boxes(said, 3), truth))["map50"] == pytest.approx(0.5)


def test_renaming_classes_changes_no_detection_metric() -> None:
    order = torch.tensor([2, 0, 1])
    truth = _box_targets(3)
    output = perfect_boxes(truth[:4] + truth[:2] + truth[:2], 3)  # partly wrong
    renamed_truth = [Boxes(b.boxes, order.argsort()[b.labels]) for b in truth]
    renamed = replace(output, raw=output.raw | {"cls_logits": output.raw["cls_logits"][:, :, order]})
    task = build(Detection)
    before = scored(task, (output, truth))
    assert 0 < before["map50"] < 1
    assert scored(task, (renamed, renamed_truth)) == pytest.approx(before)


def test_predicted_boxes_lie_in_the_image_and_come_best_first() -> None:
    task = build(Detection, 3, score_threshold=0.0)
    with torch.no_grad():
        found = task.predict(task(detection_features(2, 64)))
    for image in found:
        assert len(image.boxes) > 0
        assert (image.boxes >= 0).all()
        assert (image.boxes <= 64).all()
        assert (image.scores.diff() <= 0).all()
        assert image.labels.dtype == torch.int64


def test_detection_options_have_an_effect() -> None:
    two = [_boxes((8, 8, 40, 40, 0))]
    output = perfect_boxes(two, 1)
    output.raw["cls_logits"][0, 28] = 6.0  # the box once more, a little moved and less sure
    place = int((output.raw["cls_logits"][0, :, 0] == 8.0).nonzero())
    assert place != 28
    x, y = (output.anchors[28, :2] + 4).tolist()
    output.raw["bbox_regression"][0, 28] = torch.tensor([x - 10, y - 8, 42 - x, 40 - y]) / 8

    def count(**options: Any) -> int:
        return len(build(Detection, 1, **options).predict(output)[0].boxes)

    assert count() == 1
    assert count(nms_threshold=0.95) == 2
    assert count(nms_threshold=0.95, max_detections=1) == 1
    assert count(score_threshold=0.9999) == 0


def test_images_with_and_without_boxes_mix() -> None:
    task = build(Detection)
    targets = [_boxes((8, 8, 24, 24, 0)), _boxes()]
    assert task.loss(task(detection_features(2, 64)), targets).isfinite()
    assert scored(task, (perfect_boxes(targets, 3), targets))["map50"] == pytest.approx(1)


def test_more_predictions_than_the_limit_of_coco_still_count() -> None:
    # 121 boxes: COCO's own summary would look at 100
    rows = [(x, y, x + 8.0, y + 8.0, 0) for x in range(4, 180, 16) for y in range(4, 180, 16)]
    truth = [_boxes(*rows)]
    assert len(rows) == 121
    output = perfect_boxes(truth, 1, size=184)
    assert scored(build(Detection, 1), (output, truth))["map50"] == pytest.approx(1)


def test_heads_take_their_sizes_from_spec_and_widths() -> None:
    widths = FeatureWidths(embedding=7, pixels=5, detection=64)
    assert Classification(ClassSpec(channels=1, classes=("a",) * 4), widths).head.weight.shape == (4, 7)
    assert Segmentation(MaskSpec(channels=1, classes=("a",) * 4), widths).head.weight.shape == (4, 5, 1, 1)
    head = Detection(BoxSpec(channels=1, classes=("a",) * 4), widths).fcos.head
    assert head.classification_head.cls_logits.weight.shape[:2] == (4, 64)


@pytest.mark.parametrize("seed", range(5))
def test_a_new_box_head_starts_with_boxes_around_every_place(seed: int) -> None:
    torch.manual_seed(seed)
    task = Detection(spec_of("box"), WIDTHS)
    sides = task(detection_features()).raw["bbox_regression"]
    assert (sides > 0).all(), "GIoU teaches little where boxes do not meet"


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]], ids=["even", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [(), (5, 7)], ids=["image", "pixel"])
def test_cross_entropy_is_the_weighted_mean_of_torch(
    weights: list[float] | None, smoothing: float, size: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    output, targets = torch.randn(6, 3, *size), torch.randint(3, (6, *size))
    targets[2] = IGNORE_INDEX
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(output, targets, weight, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(output, targets, weight, smoothing), expected / math.log(3))


@pytest.mark.parametrize("kind", ["class", "multilabel", "regression", "mask"])
def test_a_loss_does_not_wait_for_the_device(kind: str) -> None:
    spec = spec_of(kind)
    rng = np.random.default_rng(0)
    with torch.device("meta"):  # holds no values, so that nobody can wait for one
        task = DEFAULT_TASKS[type(spec)](spec, WIDTHS)  # type: ignore[call-arg]
        features = torch.randn(2, WIDTHS.pixels, 64, 64) if kind == "mask" else torch.randn(2, WIDTHS.embedding)
        targets = torch.from_numpy(np.stack([random_target(kind, 64, rng) for _ in range(2)])).to("meta")
        loss = task.loss(task(features), targets)
    assert loss.shape == ()


def test_logits_of_0_lose_one_bit_a_label() -> None:
    task = build(MultilabelClassification, 4)
    assert task.loss(torch.zeros(5, 4), torch.randint(2, (5, 4)).float()).item() == pytest.approx(1)


def test_a_mask_of_another_size_has_the_class_at_the_middle_of_each_pixel() -> None:
    mask = torch.tensor([[0, 1, 2]], dtype=torch.uint8)
    assert build(Segmentation).resized(mask, (1, 3), (1, 2)).tolist() == [[0, 2]]


def test_boxes_of_another_size_are_scaled_along_each_axis() -> None:
    found = Detections(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert build(Detection).resized(found, (10, 20), (20, 60)).boxes.tolist() == [[3.0, 4.0, 9.0, 8.0]]


@pytest.mark.parametrize("cls", [t for t in TASKS if t.sample_scores is Task.sample_scores and t is not Detection])
def test_a_perfect_output_has_a_better_score_than_a_fresh_one(cls: type[Task]) -> None:
    task, case = build(cls), CASES[cls]
    targets = case.targets(3)
    with torch.no_grad():
        outputs = (case.perfect(targets, 3), task(case.features()))
        perfect, fresh = (task.sample_scores(output, targets) for output in outputs)
    assert (perfect > fresh).all()
