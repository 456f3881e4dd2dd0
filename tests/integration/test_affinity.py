"""`umedpt affinity`: wrong labels come last, the training goes on as without it, and `fit` takes the mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import (
    SMALL_DETECTION,
    SMALL_PIXELS,
    MemoryReader,
    readers_of,
    small_convnext,
    small_encoder,
    trainer_of,
)
from torch import nn

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.affinity import Affinity, LookAhead, _as_in_evaluation, measure_affinity, propose
from umedpt_lightning.types import RegressionSpec


def module_of(
    data: MultiTaskDataModule, encoder: Callable[[], Encoder] = small_encoder, seed: int = 0
) -> MultiTaskModule:
    torch.manual_seed(seed)
    optimization = Optimization(learning_rate=2e-3)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    return MultiTaskModule(data.specs, encoder(), optimization=optimization, **blocks)


def areas(seed: int) -> MultiTaskDataModule:
    """Bright squares, for whose size three tasks ask, each in its way; one has the answers shuffled."""
    rng = np.random.default_rng(seed)
    readers: dict[str, MemoryReader] = {}
    for name, kind in {"number": "regression", "level": "class", "above": "multilabel", "shuffled": "class"}.items():
        reader = readers[name] = MemoryReader(kind, size=96, seed=seed)
        sides = rng.integers(4, 29, 96)
        reader.images = rng.integers(0, 60, (96, 32, 32, 3), dtype=np.uint8)
        for image, side in zip(reader.images, sides, strict=True):
            y, x = rng.integers(0, 33 - side, 2)
            image[y : y + side, x : x + side] = 220
        values = (sides / 28) ** 2
        levels = (values > 0.15).astype(int) + (values > 0.45)
        answers = {
            "number": [np.array([v, -v, 2 * v], np.float32) for v in values],
            "level": levels.tolist(),
            "above": [(v > np.array([0.1, 0.3, 0.6])).astype(np.float32) for v in values],
            "shuffled": rng.permutation(levels).tolist(),
        }
        reader.values = answers[name]
        if isinstance(spec := reader.spec, RegressionSpec):
            numbers = np.stack(reader.values)
            means, stds = tuple(numbers.mean(0).tolist()), tuple(numbers.std(0).tolist())
            reader.spec = replace(spec, means=means, stds=stds)
    return MultiTaskDataModule({n: TaskData(train=r, batch_size=16) for n, r in readers.items()}, num_workers=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_come_last_and_are_to_be_left_out(seed: int) -> None:
    data = areas(seed)
    module = module_of(data, small_convnext, seed)
    affinity = measure_affinity(trainer_of(max_steps=200), module, data, rounds=200, every=2)
    assert min(affinity.given, key=affinity.given.__getitem__) == "shuffled", affinity.given
    assert "shuffled" in propose(affinity).left_out, affinity.effects


def test_to_look_ahead_does_not_change_the_training() -> None:
    states = []
    for callbacks in ([], [LookAhead(every=2)]):
        readers = readers_of({"a": "class", "b": "mask", "c": "box"})
        data = MultiTaskDataModule({n: TaskData(train=r, batch_size=2) for n, r in readers.items()}, num_workers=0)
        module = module_of(data)
        trainer_of(max_steps=4, callbacks=callbacks).fit(module, data)
        states.append(module.state_dict())
        for ahead in callbacks:
            assert len(ahead.affinity.falls) == 2
            for falls in ahead.affinity.falls:  # the largest is a hundredth to first order
                assert 0.005 < falls.diagonal().max() < 0.0101
                assert falls.diagonal().min() > 0
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_what_is_proposed() -> None:
    effects = np.array([[1.0, 0.4, 0.2, 0.0], [0.4, 1, 0.2, 0.0], [0.01, 0.01, 1, 0.0], [-0.1, 0.0, 0.01, 1]])
    affinity = Affinity(["a", "b", "c", "d"], [0.01 * effects, 0.03 * effects])
    assert affinity.given["a"] == pytest.approx(0.2)
    assert affinity.got["c"] == pytest.approx(0.41 / 3)
    mix = propose(affinity)
    assert mix.left_out == ["d"]
    assert mix.weights == {"a": 1.21, "b": 1.21, "c": 0.5}
    nobody = Affinity(["a", "b"], [0.01 * np.eye(2)])
    assert propose(nobody).left_out == []
    assert propose(nobody).weights == {"a": 1.0, "b": 1.0}


def test_what_a_task_gains_is_over_what_it_gains_by_itself() -> None:
    falls = np.array([[0.04, 0.01], [0.01, 0.02]])
    np.testing.assert_allclose(Affinity(["a", "b"], [falls]).effects, [[1, 0.5], [0.25, 1]])


def test_what_gives_and_gets_little_beside_the_others_is_left_out() -> None:
    effects = np.full((3, 3), 0.8)
    effects[2, :2] = effects[:2, 2] = 0.1
    np.fill_diagonal(effects, 1)
    assert propose(Affinity(["a", "b", "c"], [effects])).left_out == ["c"]
    effects[2, :2] = effects[:2, 2] = 0.3
    assert propose(Affinity(["a", "b", "c"], [effects])).left_out == []


def test_layers_that_were_in_evaluation_stay_so() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    with _as_in_evaluation(model):
        assert not model[0].training
    assert [part.training for part in model] == [True, False]


def test_the_command_writes_a_mix_that_fit_takes(project: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "affinity"
    main(["affinity", "--config", str(project / "config.yaml"), "--out", str(out), "--rounds", "3", "--every", "1"])
    shown = capsys.readouterr().out
    config = yaml.safe_load((out / "mix.yaml").read_text())
    assert config["data"]["tasks"].keys() == config["model"]["weights"].keys()
    assert all(task in shown for task in yaml.safe_load((project / "config.yaml").read_text())["data"]["tasks"])
    assert {file.name for file in out.iterdir()} == {"affinity.csv", "affinity.png", "mix.yaml"}
    main(["fit", "--config", str(out / "mix.yaml"), "--run", str(tmp_path / "run"), "--trainer.max_steps", "3"])
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"every": 0}, "--every and --step must be positive"), ({"rounds": 0}, "--rounds must be positive")],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    readers = readers_of({"a": "class", "b": "class"})
    data = MultiTaskDataModule({n: TaskData(train=r, batch_size=2) for n, r in readers.items()}, num_workers=0)
    with pytest.raises(ValueError, match=words):
        measure_affinity(trainer_of(max_steps=1), module_of(data), data, **options)


def test_one_task_alone_is_refused() -> None:
    data = MultiTaskDataModule({"a": TaskData(train=MemoryReader("class"), batch_size=2)}, num_workers=0)
    with pytest.raises(ValueError, match="One task alone"):
        measure_affinity(trainer_of(max_steps=1), module_of(data), data)
