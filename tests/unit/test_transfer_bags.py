"""Transfer to bags: fractions of patients, a head on embeddings that are computed once, and what cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import MemoryReader, small_encoder

from umedpt_lightning.blocks import BAG
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer import bags as of_bags
from umedpt_lightning.transfer import embeddings as module
from umedpt_lightning.transfer import evaluation
from umedpt_lightning.transfer.bags import BagHead, bag_head
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result
from umedpt_lightning.transfer.embeddings import Embeddings, embeddings
from umedpt_lightning.transfer.finetune import FineTuning
from umedpt_lightning.transfer.protocol import Protocol
from umedpt_lightning.transfer.sources import PretrainedSource, TimmSource
from umedpt_lightning.transfer.sweep import Sweep
from umedpt_lightning.types import IGNORE_INDEX, Bag, ClassSpec, Sample, SurvivalSpec


class Patients(Reader):
    """One to five noisy images each, one of which has stripes where the patient is ill."""

    def __init__(self, count: int, seed: int, survival: bool = False) -> None:
        self._seed = seed
        ill = np.arange(count) % 2
        if survival:
            self.targets = np.stack([60 - 50 * ill + np.arange(count) / count, np.ones(count)], 1).astype(np.float32)
            spec: Any = SurvivalSpec(channels=3, time_unit="days", bag="patient")
        else:
            self.targets, spec = ill, ClassSpec(channels=3, classes=("well", "ill"), bag="patient")
        self.spec, self._ill = spec.with_statistics(self.targets), ill

    def __len__(self) -> int:
        return len(self._ill)

    def __getitem__(self, index: int) -> Bag:
        index = self._at(index)
        rng = np.random.default_rng([self._seed, index])
        images = rng.integers(0, 100, (1 + index % 5, 32, 32, 3), np.uint8)
        if self._ill[index]:
            images[int(rng.integers(len(images))), ::4] = 255
        target = self.targets[index]
        positions = np.stack([np.linspace(0, 1, len(images)), np.zeros(len(images))], 1).astype(np.float32)
        samples = [Sample(image, target, f"{index}") for image in images]
        return Bag.of(samples, target.copy() if target.ndim else int(target), f"patient {index}", positions)

    @property
    def groups(self) -> Any:
        return np.array([f"patient {i}" for i in range(len(self))])


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 5)


@pytest.fixture
def pretrained(tmp_path: Path) -> PretrainedSource:
    """A model that has seen bags and single images."""
    torch.manual_seed(0)
    specs = {"old": ClassSpec(channels=3, classes=("a", "b"), bag="slide"), "one": MemoryReader("class").spec}
    MultiTaskModel(small_encoder(), specs).save_pretrained(tmp_path / "model")
    return PretrainedSource(str(tmp_path / "model"))


def sweep(folder: Path, source: Any, survival: bool = False, **options: Any) -> dict[Cell, Result]:
    parts = {part: Patients(30, i, survival) for i, part in enumerate(("train", "val", "test"))}
    tuning = FineTuning(steps=options.pop("steps", 60), learning_rates=(1e-2,), evaluations=2)
    given: dict[str, Any] = {"fractions": [0.2, 1.0], "seeds": 2, "finetuning": tuning, "name": "new"} | options
    protocol = Protocol(TaskData(**parts, batch_size=8), {"ours": source}, **given)
    return Sweep(protocol, CellFolder(folder), ComputeOptions()).run()


def test_heads_for_bags_learn_from_embeddings_that_are_computed_once(
    tmp_path: Path, pretrained: PretrainedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    of_bags = module._of_bags
    monkeypatch.setattr(module, "_of_bags", lambda *args: (computed.append(len(args[3])), of_bags(*args))[1])
    results = sweep(tmp_path / "cells", pretrained, modes=["frozen", "knn"])
    assert computed == [30, 30, 30]  # one for each part, whatever the seed, the mode and the fraction
    for cell, result in results.items():
        assert result.labels == round(30 * cell.fraction)  # patients
        if cell.fraction == 1:
            assert result.test["auroc"] > 0.8, (str(cell), {str(c): r.test["auroc"] for c, r in results.items()})
    assert len({results[cell].options["learning_rate"] for cell in results if cell.mode == "frozen"}) == 1


def test_some_bags_and_their_means_are_those_of_the_images() -> None:
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    bags = Embeddings(features, np.array([0, 1, 0]), np.array([1, 3, 2]), features / 10)
    some = bags[np.array([2, 1])]
    assert some.features[:, 0].tolist() == [8, 10, 2, 4, 6]
    assert (some.targets.tolist(), some.sizes.tolist()) == ([0, 1], [2, 3])  # type: ignore[union-attr]
    np.testing.assert_array_equal(some.positions, some.features / 10)
    np.testing.assert_array_equal(some.means().features, [[9, 10], [4, 5]])
    assert bags.means().means().sizes is None


def test_kept_embeddings_of_bags_are_those_of_the_encoder(
    pretrained: PretrainedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Patients(4, 0)
    model = pretrained.create_model("new", reader.spec, None, 0).eval()
    data = TaskData(train=reader, batch_size=2)
    first, again = (embeddings(model, "new", data, reader, ComputeOptions()) for _ in range(2))
    assert first.sizes is not None
    assert first.sizes.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.positions, again.positions)
    images = torch.from_numpy(np.stack(reader[2].images)).permute(0, 3, 1, 2)
    expected = model.pooling(model.pyramid(images, "new")).detach()
    torch.testing.assert_close(torch.from_numpy(first.features[3:6]), expected, atol=1e-5, rtol=1e-5)
    model.block(BAG).load_state_dict({name: value + 1 for name, value in model.block(BAG).state_dict().items()})
    monkeypatch.setattr(module, "_of_bags", lambda *_: pytest.fail("they do not depend on the block of bags"))
    embeddings(model, "new", data, reader, ComputeOptions())


def head_of(bags: Embeddings, seed: int = 0, rates: tuple[float, ...] = (1e-2,)) -> BagHead:
    """Of four evaluations of two steps each."""
    torch.manual_seed(0)
    spec = ClassSpec(channels=3, classes=("a", "b"), bag="patient").with_statistics(bags.targets)
    tuning = FineTuning(steps=8, learning_rates=rates, evaluations=4)
    return bag_head(MultiTaskModel(small_encoder(), {"new": spec}), "new", bags, bags, tuning, 4, seed)


def bags_of(count: int) -> Embeddings:
    """Bags of two images."""
    width = small_encoder().embedding_channels
    features = np.random.default_rng(0).normal(size=(2 * count, width)).astype(np.float32)
    return Embeddings(features, np.arange(count) % 2, np.full(count, 2))


def test_the_best_rate_and_evaluation_of_a_head_for_bags_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, math.nan, 0.6, 0.6, 0.65, 0.8, 0.7, 0.75, 0.7, 0.7, 0.7])
    monkeypatch.setattr(of_bags, "metrics_of", lambda *_: {"auroc": next(scores)})
    head = head_of(bags_of(8), rates=(1e-2, 1e-3, 1e-4))
    assert head.options == {"learning_rate": 1e-3, "steps": 6}
    assert head.val == {"auroc": 0.8}


def test_a_head_for_bags_depends_on_those_with_a_label_and_on_the_seed_alone() -> None:
    bags = bags_of(8)
    bags.targets[[2, 5]] = IGNORE_INDEX
    labelled = bags[np.flatnonzero(bags.targets != IGNORE_INDEX)]
    found = [head_of(bags)(labelled), head_of(labelled)(labelled), head_of(labelled, seed=1)(labelled)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.slow
def test_times_of_bags_learn_too_and_have_no_neighbours(tmp_path: Path) -> None:
    source = TimmSource("test_efficientnet_gn")
    results = sweep(tmp_path, source, True, seeds=1, fractions=[1.0], modes=["frozen"], steps=20)
    assert {"cindex", "brier"} <= next(iter(results.values())).test.keys()
    with pytest.raises(ValueError, match=r"knn needs a task whose head is a linear model.*times to an event"):
        sweep(tmp_path, source, True, modes=["knn"])


@pytest.mark.slow
def test_a_head_for_bags_is_where_fine_tuning_starts(tmp_path: Path, pretrained: PretrainedSource) -> None:
    results = sweep(tmp_path, pretrained, seeds=1, fractions=[1.0], modes=["finetune"], steps=2)
    assert next(iter(results.values())).options["steps"] in (1, 2)


def test_a_model_of_bags_is_where_a_task_of_single_images_starts(pretrained: PretrainedSource) -> None:
    model = pretrained.create_model("new", MemoryReader("class").spec, None, 0)
    assert not model.blocks
