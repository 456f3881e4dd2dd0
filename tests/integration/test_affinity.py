"""`umedpt affinity`: wrong labels come last, the training goes on as without it, and `fit` takes the mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of

from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.affinity import Affinity, LookAhead, measure_affinity, propose

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),  # Lightning's own
]


def module_of(data: MultiTaskDataModule, seed: int = 0) -> MultiTaskModule:
    torch.manual_seed(seed)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    return MultiTaskModule(data.specs, small_encoder(), **blocks)


def squares(seed: int) -> MultiTaskDataModule:
    """A bright square on noise: where it is, on which side, its mask; and its side shuffled."""
    rng = np.random.default_rng(seed)
    readers = {
        name: MemoryReader(kind, size=48, seed=seed)
        for name, kind in {"side": "class", "where": "regression", "mask": "mask", "shuffled": "class"}.items()
    }
    for name, reader in readers.items():
        corners = rng.integers(2, 20, (48, 2))
        sides = corners // 9
        shuffled = rng.permutation(sides[:, 0])
        for i, (y, x) in enumerate(corners):
            reader.images[i] = rng.integers(0, 60, (32, 32, 3))
            reader.images[i, y : y + 9, x : x + 9] = 220
            mask = np.zeros((32, 32), np.int16)
            mask[y : y + 9, x : x + 9] = 1
            place = np.array([y, x, y + x], np.float32)
            values = {"side": int(sides[i, 0]), "where": place, "mask": mask, "shuffled": int(shuffled[i])}
            reader.values[i] = values[name]
        if name == "where":
            places = np.stack(reader.values)
            spec = reader.spec
            reader.spec = type(spec)(
                channels=3,
                quantities=spec.quantities,
                units=spec.units,
                means=tuple(places.mean(0).tolist()),
                stds=tuple(places.std(0).tolist()),
            )
    return MultiTaskDataModule({n: TaskData(train=r, batch_size=16) for n, r in readers.items()}, num_workers=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_come_last_and_are_to_be_left_out(seed: int) -> None:
    data = squares(seed)
    affinity = measure_affinity(trainer_of(max_steps=150), module_of(data, seed), data, rounds=150, every=3)
    assert min(affinity.given, key=affinity.given.__getitem__) == "shuffled", affinity.given
    assert propose(affinity).left_out == ["shuffled"], (affinity.given, affinity.got)


def test_to_look_ahead_does_not_change_the_training() -> None:
    states = []
    for callbacks in ([], [LookAhead(every=2)]):
        readers = readers_of({"a": "class", "b": "mask", "c": "box"})
        data = MultiTaskDataModule({n: TaskData(train=r, batch_size=2) for n, r in readers.items()}, num_workers=0)
        module = module_of(data)
        trainer_of(max_steps=4, callbacks=callbacks).fit(module, data)
        states.append(module.state_dict())
        for ahead in callbacks:
            assert len(ahead.affinity.effects) == 2
            # to first order a step does to its own loss what it is to do
            assert np.diag(ahead.affinity.mean) == pytest.approx([1, 1, 1], abs=0.2)
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_what_is_proposed() -> None:
    effects = np.array([[1.0, 0.4, 0.2, 0.0], [0.4, 1, 0.2, 0.0], [0.01, 0.01, 1, 0.0], [-0.1, 0.0, 0.01, 1]])
    affinity = Affinity(["a", "b", "c", "d"], [effects, effects])
    assert affinity.given["a"] == pytest.approx(0.2)
    assert affinity.got["c"] == pytest.approx(0.41 / 3)
    mix = propose(affinity)
    assert mix.left_out == ["d"]
    assert mix.weights == {"a": 1.22, "b": 1.22, "c": 0.5}
    nobody = Affinity(["a", "b"], [np.eye(2)])
    assert propose(nobody).left_out == []


def test_the_command_writes_a_mix_that_fit_takes(project: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "affinity"
    main(["affinity", "--config", str(project / "config.yaml"), "--out", str(out), "--rounds", "3", "--every", "1"])
    shown = capsys.readouterr().out
    config = yaml.safe_load((out / "mix.yaml").read_text())
    assert config["data"]["tasks"].keys() == config["model"]["weights"].keys()
    assert all(task in shown for task in yaml.safe_load((project / "config.yaml").read_text())["data"]["tasks"])
    assert {file.name for file in out.iterdir()} == {"affinity.csv", "affinity.png", "mix.yaml"}
    main(["fit", "--config", str(out / "mix.yaml"), "--run", str(tmp_path / "run"), "--trainer.max_steps", "1"])
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
