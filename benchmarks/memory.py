"""What a round keeps in memory, with few tasks and with many."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
import yaml

from benchmarks.jpegs import make_jpegs
from benchmarks.micro_batches import batches_of, round_of, specs_of
from benchmarks.processes import in_fresh_process, peak_rss, rss, side_by_side
from benchmarks.timing import ratio
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.callbacks.progress import RunLines
from umedpt_lightning.callbacks.run_logger import RunLogger
from umedpt_lightning.cli.data_tasks import build, read_config
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.demo import default_folder, prepare
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.types import TaskBatch

SIDE = 64  # pixels of the real loader's images
SWIN = "swin_tiny_patch4_window7_224"


# --- what autograd keeps --------------------------------------------------------------------------------------------


def saved_tensors(quick: bool = False) -> dict[str, float]:
    """Peaks of what autograd keeps: 64 tasks over the largest, and 16 one after the other over 16 in one loss."""
    specs = specs_of(64, masks=True)
    batches = batches_of(specs, images=2, side=64)
    largest = max(_peak_of_step(batches[i : i + 1]) for i in (0, 1))  # one of each kind
    alike = batches[1:32:2]  # 16 with masks
    return {
        "memory.saved_tensors_64_over_largest": _peak_of_step(batches) / largest,
        "memory.accumulate_over_joint_16": _peak_of_step(alike) / _peak_of_joint_loss(alike),
    }


class FromMemory:
    """Rounds of the same micro-batches."""

    def __init__(self, batches: list[TaskBatch], rounds: int) -> None:
        self.batches, self.rounds = batches, rounds

    def __len__(self) -> int:
        return self.rounds

    def __iter__(self):  # type: ignore[no-untyped-def]
        for _ in range(self.rounds):
            yield round_of(self.batches)


def _peak_of_step(batches: list[TaskBatch]) -> int:
    """Of two steps with the Trainer."""
    specs = specs_of(64, masks=True)
    module = MultiTaskModule({batch.task: specs[batch.task] for batch in batches}, Encoder("test_convnext"))
    with tempfile.TemporaryDirectory() as folder, SavedBytes() as saved:
        trainer_of(folder, max_steps=2).fit(module, FromMemory(batches, 2))
    return saved.peak


def _peak_of_joint_loss(batches: list[TaskBatch]) -> int:
    specs = specs_of(64, masks=True)
    model = MultiTaskModel(Encoder("test_convnext"), {batch.task: specs[batch.task] for batch in batches})
    with SavedBytes() as saved:
        losses = [model.task(b.task).loss(model(b.images, b.task), b.targets) for b in batches]
        torch.stack(losses).mean().backward()
    return saved.peak


# --- what the process takes -----------------------------------------------------------------------------------------


def rss_trainer(quick: bool = False) -> dict[str, float]:
    """Growth of the training process (peak RSS) with 64 tasks over that with 4, real loader, as many micro-batches."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 64, size=SIDE)
        many, few = side_by_side(*((_growth, folder, tasks, 64 // tasks) for tasks in (64, 4)))
    return {"memory.rss_trainer_64_over_4": many / few}


def _growth(folder: str, tasks: int, rounds: int) -> float:
    torch.set_num_threads(1)
    data = MultiTaskDataModule(
        {f"task{i}": TaskData(train=ClassFolders(folder), batch_size=8, size=SIDE) for i in range(tasks)},
        num_workers=2,
        steps_per_epoch=rounds,
    )
    module = MultiTaskModule(data.specs, Encoder("convnext_atto"))
    before = rss()
    with tempfile.TemporaryDirectory() as run:
        trainer_of(run, max_steps=rounds).fit(module, data)
    return peak_rss() - before


def trainer_of(folder: str, **options: object) -> pl.Trainer:
    """As `umedpt fit` makes it, but without validation and checkpoints."""
    fixed = {
        "accelerator": "cpu",
        "logger": RunLogger(folder),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "log_every_n_steps": 10,
    }
    callbacks = {} if "callbacks" in options else {"callbacks": [RunLines()]}
    return pl.Trainer(**(fixed | callbacks | options))  # type: ignore[arg-type]


# --- real tasks -----------------------------------------------------------------------------------------------------


def rss_real(quick: bool = False) -> dict[str, float]:
    """Peak RSS of training on 25 real tasks over that on the 5 of them with the largest images, one of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        config = real_tasks(Path(folder))
        kinds: dict[str, str] = {}
        for name, task in sorted(built(config).items(), key=lambda item: _pixels(item[1])):
            kinds[type(task.readers["train"].spec).__name__] = name  # the largest comes last
        many, few = side_by_side((_peak_of_real, config, [], 2), (_peak_of_real, config, [*kinds.values()], 10))
    return {"memory.rss_25_over_5_tasks": many / few}


def real_tasks(folder: Path) -> Path:
    """The config of all tasks of ``configs/seventeen``, whose data are linked in a folder.

    Raises:
        FileNotFoundError: The data are not beside the project, or where UMEDPT_SHARED_DATA says.
    """
    project = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("UMEDPT_SHARED_DATA", project.parent / "shared" / "data"))
    if not shared.is_dir():
        raise FileNotFoundError(f"{shared}: there are no real data. Say where they are in UMEDPT_SHARED_DATA.")
    for path in shared.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "demo").symlink_to(prepare(default_folder()))
    seventeen = project / "configs" / "seventeen"
    tasks = ["${root}/tasks/*.yaml", str(seventeen / "first.yaml"), str(seventeen / "demo.yaml")]
    content = {"root": str(folder), "data": {"tasks": tasks}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


def built(config: Path, names: Sequence[str] = ()) -> dict[str, TaskData]:
    """The tasks of a config; raises ValueError where something is wrong with one."""
    tasks, problems = build(read_config([config], None, names))
    if problems:
        raise ValueError(str(problems[0]))
    return tasks


def _pixels(task: TaskData) -> int:
    """Of a micro-batch, where its size is known; those of a first image where it is not."""
    height, width = (task.size, task.size) if isinstance(task.size, int) else task.size or (0, 0)
    if not height:
        height, width = task.readers["train"][0].image.shape[:2]
    return task.batch_size * height * width


def _peak_of_real(config: Path, names: Sequence[str], rounds: int) -> float:
    torch.set_num_threads(1)
    data = MultiTaskDataModule(built(config, names), num_workers=1, steps_per_epoch=rounds)
    module = MultiTaskModule(data.specs, Encoder("tf_efficientnet_lite0"))
    with tempfile.TemporaryDirectory() as run:
        trainer_of(run, max_steps=rounds).fit(module, data)
    return peak_rss()


# --- checkpointing --------------------------------------------------------------------------------------------------


def checkpointing(quick: bool = False) -> dict[str, float]:
    """Swin-T at 224 pixels with checkpointing over without: peak RSS at 32 images, CPU time at 8."""
    images = 16 if quick else 32
    with_it, without = side_by_side(*((_peak_of_swin, on, images) for on in (True, False)))
    time = in_fresh_process(_time_of_checkpointing, 1 if quick else 3)
    return {"memory.checkpointing_rss": with_it / without, "memory.checkpointing_time": time}


def _peak_of_swin(checkpointing: bool, images: int) -> float:
    torch.set_num_threads(1)
    swin = _Swin(checkpointing, images)
    for batch in (1, images):  # the first, so that the optimizer has its state
        swin.step(batch)
    return peak_rss()


def _time_of_checkpointing(runs: int) -> float:
    torch.set_num_threads(1)
    return ratio((_Swin(True, 8).step, _Swin(False, 8).step), runs)


class _Swin:
    """Swin-T with one classification task and its optimizer."""

    def __init__(self, checkpointing: bool, images: int) -> None:
        specs = specs_of(1)
        self.model = MultiTaskModel(Encoder(SWIN, checkpointing=checkpointing), specs)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        (self.batch,) = batches_of(specs, images, 224)

    def step(self, images: int | None = None) -> None:
        """Of the first so many images, all by default."""
        output = self.model(self.batch.images[:images], self.batch.task)
        self.model.task(self.batch.task).loss(output, self.batch.targets[:images]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
