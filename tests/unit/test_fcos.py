"""The loss of boxes: torchvision's where every box has a place, a place for every box, and nobody who waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from builders import WIDTHS, detection_features, spec_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from umedpt_lightning.tasks import Detection
from umedpt_lightning.tasks.detection import DetectionOutput
from umedpt_lightning.tasks.fcos_targets import Assignment, PaddedBoxes, assign
from umedpt_lightning.types import Boxes

SIDE, IMAGES = 128, 3


def detection() -> Detection:
    return Detection(spec_of("box"), WIDTHS)  # type: ignore[arg-type]


def random_output(task: Detection, images: int = IMAGES, side: int = SIDE) -> DetectionOutput:
    output = task(detection_features(images, side))
    output.raw = {name: torch.randn_like(value).requires_grad_() for name, value in output.raw.items()}
    return output


def random_boxes(smallest: float, largest: float, most: int, images: int = IMAGES, side: int = SIDE) -> list[Boxes]:
    found = []
    for _ in range(images):
        count = int(torch.randint(0, most + 1, ()))
        corners, sides = torch.rand(count, 2) * (side - largest), smallest + torch.rand(count, 2) * (largest - smallest)
        found.append(Boxes(torch.cat([corners, corners + sides], 1), torch.randint(0, 3, (count,))))
    return found


def assigned(output: DetectionOutput, targets: list[Boxes]) -> Assignment:
    return assign(output.anchors, output.places, PaddedBoxes.of(targets, output.anchors.dtype))


def boxes_with_a_place(output: DetectionOutput, targets: list[Boxes]) -> list[set[int]]:
    found = assigned(output, targets)
    return [set(box[positive].tolist()) for box, positive in zip(found.box, found.positive, strict=True)]


def of_torchvision(task: Detection, output: DetectionOutput, targets: list[Boxes]) -> Tensor:
    anchors = [output.anchors] * len(targets)
    losses = task.fcos.compute_loss([t._asdict() for t in targets], output.raw, anchors, output.places)
    return sum(losses.values()) / 3  # type: ignore[return-value]


@pytest.mark.parametrize(("side", "largest"), [(SIDE, 60), (512, 400)], ids=["finest level", "all levels"])
def test_the_loss_and_its_gradients_are_those_of_torchvision_where_every_box_has_a_place_by_its_rule(
    side: int, largest: float
) -> None:
    torch.manual_seed(0)
    task, compared = detection(), 0
    for _ in range(60):
        output, targets = random_output(task, side=side), random_boxes(8, largest, 6, side=side)
        if assigned(output, targets).extra.any():
            continue
        compared += 1
        ours, theirs = task.loss(output, targets), of_torchvision(task, output, targets)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        raw = list(output.raw.values())
        for one, other in zip(torch.autograd.grad(ours, raw), torch.autograd.grad(theirs, raw), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert compared > 30


@pytest.mark.parametrize(
    ("smallest", "largest", "most"), [(1, 3, 10), (2, 8, 25), (3, 100, 12)], ids=["tiny", "crowded", "all sizes"]
)
def test_every_box_has_a_place_whatever_its_size(smallest: float, largest: float, most: int) -> None:
    torch.manual_seed(0)
    task = detection()
    for _ in range(20):
        output, targets = random_output(task), random_boxes(smallest, largest, most)
        assert boxes_with_a_place(output, targets) == [set(range(len(t.labels))) for t in targets]


def test_the_place_of_a_box_in_which_none_lies_is_the_nearest() -> None:
    output = random_output(detection(), 1)
    centres = (output.anchors[: output.places[0], :2] + output.anchors[: output.places[0], 2:]) / 2
    for x, y in ((17.2, 30.9), (3.5, 3.5), (120.0, 2.0), (126.5, 126.5)):  # also beyond the last places
        box = torch.tensor([[x - 1, y - 1, x + 1, y + 1]])
        found = assigned(output, [Boxes(box, torch.zeros(1, dtype=torch.int64))])
        (place,) = found.positive[0].nonzero()[:, 0].tolist()
        assert place == (centres - torch.tensor([x, y])).square().sum(1).argmin()
        assert found.extra[0, place]


def test_boxes_on_top_of_each_other_have_different_places() -> None:
    output = random_output(detection(), 1)
    for side in (3.0, 12.0, 40.0):
        boxes = torch.tensor([[41.0, 43.0, 41.0 + side, 43.0 + side]]).repeat(5, 1)
        assert boxes_with_a_place(output, [Boxes(boxes, torch.arange(5) % 3)]) == [set(range(5))]


def test_an_image_without_boxes_and_boxes_that_fill_up_a_micro_batch_are_nobodys_object() -> None:
    output = random_output(detection(), 2)
    nothing, one = torch.zeros(0, 4), torch.tensor([[20.0, 20.0, 60.0, 60.0]])
    targets = [Boxes(nothing, torch.zeros(0, dtype=torch.int64)), Boxes(one, torch.ones(1, dtype=torch.int64))]
    assert boxes_with_a_place(output, targets) == [set(), {0}]
    assert boxes_with_a_place(output, targets[:1] * 2) == [set(), set()]


def test_boxes_smaller_than_a_stride_are_learnt() -> None:
    torch.manual_seed(0)
    task = detection()
    corners = torch.tensor([[9.6, 4.3], [28.0, 19.0], [43.9, 43.2], [20.5, 53.0], [53.0, 10.2]])
    targets = [Boxes(torch.cat([corners, corners + 3], 1), torch.arange(5) % 3)]
    features = detection_features(1)
    maps = [m.detach().requires_grad_() for m in (*features.classes, *features.boxes)]
    features.classes, features.boxes = maps[: len(maps) // 2], maps[len(maps) // 2 :]
    optimizer = torch.optim.Adam([*task.parameters(), *maps], 0.003)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, 300)
    for _ in range(300):
        optimizer.zero_grad()
        task.loss(task(features), targets).backward()
        optimizer.step()
        schedule.step()
    task.update(task(features), targets)
    assert task.compute()["map50"] == 1


class _Watch(TorchDispatchMode):
    """Counts operations that make a GPU wait, and notes the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "item", "unique"):
            self.waits[name] += 1
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_a_micro_batch_of_boxes_never_waits_for_the_device() -> None:
    torch.manual_seed(0)
    task, targets = detection(), random_boxes(2, 60, 20)
    with _Watch() as watch:
        task.loss(task(detection_features(IMAGES, SIDE)), targets).backward()
    assert not watch.waits
    with _Watch() as watch:  # it does see them
        of_torchvision(task, random_output(task), targets)
    assert sum(watch.waits.values()) > 5


def test_loss_and_gradients_need_no_values() -> None:
    with torch.device("meta"):
        task = detection()
        targets = [Boxes(torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64)) for count in (0, 7)]
        loss = task.loss(task(detection_features(2)), targets)
        loss.backward()
    assert loss.shape == ()


def test_no_tensor_has_a_number_for_every_place_and_box() -> None:
    torch.manual_seed(0)
    task, side, boxes = detection(), 256, 400
    output = random_output(task, 1, side)
    corners = torch.rand(boxes, 2) * (side - 10)
    targets = [Boxes(torch.cat([corners, corners + 10], 1), torch.zeros(boxes, dtype=torch.int64))]
    with _Watch() as watch:
        task.loss(output, targets)
    assert watch.largest < 0.6 * len(output.anchors) * boxes
    with _Watch() as watch:
        of_torchvision(task, output, targets)
    assert watch.largest >= len(output.anchors) * boxes


def test_a_head_from_before_boxes_could_lie_beside_their_place_predicts_and_learns_as_it_did() -> None:
    torch.manual_seed(0)
    task, features = detection(), detection_features()
    torch.nn.init.normal_(task.fcos.head.regression_head.bbox_reg.weight)
    new = task(features).raw["bbox_regression"]
    state = task.state_dict()
    del state["signed_distances"]
    task.load_state_dict(state)
    old = task(features).raw["bbox_regression"]
    torch.testing.assert_close(old, task.fcos.head.regression_head(features.boxes)[0])
    assert (old >= 0).all()
    assert (new < 0).any()
    assert (new + new.roll(2, -1) > -1e-5).all(), "no side has a negative length"
    output, targets = random_output(task), random_boxes(2, 40, 20)
    assert assigned(output, targets).extra.any()
    torch.testing.assert_close(task.loss(output, targets), of_torchvision(task, output, targets))
    task.load_state_dict(detection().state_dict())
    assert task.signed_distances


def test_scores_that_are_1_in_float32_do_not_tie() -> None:
    task = detection()
    output, place = random_output(task, 2), 40
    logits = torch.full_like(output.raw["cls_logits"], -30)
    logits[:, place, 1] = torch.tensor([20.0, 25.0])
    sides, centres = torch.ones_like(output.raw["bbox_regression"]), torch.full_like(output.raw["bbox_ctrness"], 40)
    output.raw = {"cls_logits": logits, "bbox_regression": sides, "bbox_ctrness": centres}
    wrong, right = task.predict(output)
    assert wrong.scores.tolist() == right.scores.tolist() == [1]
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for better, truth in (
        (1, [nothing, Boxes(right.boxes, right.labels)]),
        (0, [Boxes(wrong.boxes, wrong.labels), nothing]),
    ):
        task.reset()
        task.update(output, truth)
        answers = task.answers()
        answers.add(output, truth)
        expected = 1 if better else 0.5
        assert task.compute()["map50"] == answers.score()["map50"] == pytest.approx(expected, abs=0.01)
