"""A whole `umedpt fit` of 16 tasks, against a bare loop over the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import cpu_with_ended, side_by_side
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import Optimization
from umedpt_lightning.types import ClassSpec

TASKS, BATCH, SIDE, EPOCHS = 16, 8, 96, 2


def measure(quick: bool = False) -> dict[str, float]:
    """CPU time, workers and all: two epochs with validation, both sides at the same time."""
    rounds = 2 if quick else 6
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder) / "train", rounds * BATCH, size=SIDE)
        make_jpegs(Path(folder) / "val", 2 * BATCH, size=SIDE)
        mine, bare = side_by_side((_seconds, _fit, folder, rounds), (_seconds, _bare, folder, rounds))
    return {"speed.run_16_tasks_over_bare": mine / bare}


def _seconds(run: Callable[[str, int], None], folder: str, rounds: int) -> float:
    torch.set_num_threads(1)
    before = cpu_with_ended()
    run(folder, rounds)
    return cpu_with_ended() - before


def _fit(folder: str, rounds: int) -> None:
    """All that a run does: lines on the screen, CSV, checkpoints, pictures, report."""
    parts = {
        part: {"class_path": "ClassFolders", "init_args": {"folder": f"{folder}/{part}"}} for part in ("train", "val")
    }
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": EPOCHS, "num_sanity_val_steps": 0},
        "model": {"encoder": {"class_path": "Encoder", "init_args": {"name": "resnet18"}}},
        "data": {
            "num_workers": 1,
            "steps_per_epoch": rounds,
            "tasks": {f"task{i}": parts | {"batch_size": BATCH, "size": SIDE} for i in range(TASKS)},
        },
    }
    file = Path(folder) / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(file), "--run", f"{folder}/run"])


def _bare(folder: str, rounds: int) -> None:
    """Reads in the same process; computes the same metrics, and saves as often."""
    spec = ClassSpec(channels=3, classes=("class0", "class1"))
    tasks = [f"task{i}" for i in range(TASKS)]
    model = MultiTaskModel(Encoder("resnet18"), dict.fromkeys(tasks, spec))
    optimizer = Optimization().build_optimizer(model)
    parts = {part: sorted(Path(folder, part).rglob("*.jpg")) for part in ("train", "val")}
    for _ in range(EPOCHS):
        model.train()
        for i in range(rounds):
            optimizer.zero_grad()
            for task in tasks:
                images, targets = _read(parts["train"][i * BATCH : (i + 1) * BATCH])
                (model.task(task).loss(model(images, task), targets) / TASKS).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            for task in tasks:
                for i in range(0, len(parts["val"]), BATCH):
                    images, targets = _read(parts["val"][i : i + BATCH])
                    model.task(task).update(model(images, task), targets)
                model.task(task).compute()
                model.task(task).reset()
        torch.save([model.state_dict(), optimizer.state_dict()], Path(folder) / "bare.pt")


def _read(files: list[Path]) -> tuple[Tensor, Tensor]:
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.array(image).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images)), torch.tensor([int(file.parent.name == "class1") for file in files])
