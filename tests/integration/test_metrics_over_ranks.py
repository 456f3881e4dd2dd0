"""Metrics over two real processes: those of all samples, however unevenly the ranks have seen them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from builders import KINDS, WIDTHS, detection_features, random_survival, random_target, spec_of, survival_spec

from umedpt_lightning.tasks import DEFAULT_TASKS, ImitateEmbedding, MaskedImages, Task
from umedpt_lightning.types import Boxes, TaskBatch, UnlabelledSpec

IMAGES, SIDE = 8, 64
ALL = (*KINDS, "survival", "masked images", "imitation")
#: Images of the first rank; the second has the rest.
SPLITS = {"evenly": 4, "unevenly": 5, "all on one": IMAGES}


def sample(kind: str) -> tuple[Task, list[Any], list[Any]]:
    """A task, with outputs and targets of one image each, the same in every process."""
    torch.manual_seed(0)
    if kind == "imitation":
        imitation = ImitateEmbedding(UnlabelledSpec(channels=3), WIDTHS, channels=5)
        return imitation, [*torch.randn(IMAGES, 1, 5)], [*torch.randn(IMAGES, 1, 5)]
    if kind == "masked images":
        painting = MaskedImages(UnlabelledSpec(channels=3), WIDTHS)
        batches = [
            TaskBatch("t", torch.rand(1, 3, SIDE, SIDE), torch.tensor([i]), ["x"], [(SIDE, SIDE)])
            for i in range(IMAGES)
        ]
        return (
            painting,
            [*torch.randn(IMAGES, 1, 3, SIDE, SIDE)],
            [painting.prepare(batch).targets for batch in batches],
        )
    rng = np.random.default_rng(0)
    spec = survival_spec() if kind == "survival" else spec_of(kind)
    task = DEFAULT_TASKS[type(spec)](spec, WIDTHS)  # type: ignore[call-arg]
    outputs, targets = [], []
    for _ in range(IMAGES):
        value = random_survival(rng) if kind == "survival" else random_target(kind, SIDE, rng)
        if kind == "box":
            targets.append([Boxes(torch.from_numpy(value.boxes), torch.from_numpy(value.labels))])
            features = detection_features(1, SIDE)
        else:
            targets.append(torch.as_tensor(value)[None])
            features = torch.randn(1, WIDTHS.pixels, SIDE, SIDE) if kind == "mask" else torch.randn(1, WIDTHS.embedding)
        with torch.no_grad():
            outputs.append(task(features))
    return task, outputs, targets


def metrics(kind: str, images: range) -> dict[str, float]:
    task, outputs, targets = sample(kind)
    for image in images:
        task.update(outputs[image], targets[image])
    return {name: float(value) for name, value in task.compute().items()}


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {}
    for kind in ALL:
        for split, first in SPLITS.items():
            found[kind, split] = metrics(kind, (range(first), range(first, IMAGES))[rank])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, float]]]:
    folder = tmp_path_factory.mktemp("ranks")
    # forked, as a data loader's workers are: spawned ones would import torch and Lightning anew, for 10 seconds
    mp.start_processes(_rank, (str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ALL)
def test_two_ranks_find_the_metrics_of_one_process(by_rank: list[Any], kind: str, split: str) -> None:
    alone = metrics(kind, range(IMAGES))
    for found in by_rank:
        assert found[kind, split] == pytest.approx(alone, abs=1e-5, nan_ok=True)
