"""Samples that come from a server 50 ms away: how fast they are, and whether killed runs end as others do."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import in_fresh_process, side_by_side
from benchmarks.ranks import free_port, torchrun_variables
from benchmarks.resume import (
    PLACES,
    Kill,
    die_at,
    differences_of,
    differing_of,
    finish,
    fork,
    kills,
    project_of,
)
from tests.file_server import serve
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ClassFolders, Packed
from umedpt_lightning.data.shards.byte_cache import ByteCache
from umedpt_lightning.data.shards.pack import pack_reader
from umedpt_lightning.data.shards.store import ShardStore
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import TaskBatch

LATENCY = 0.05  # seconds before each answer
TASKS, BATCH, IMAGES = 4, 8, 320
#: Where runs are killed that read shards.
AT_SHARDS = {"round": PLACES["round"], "shard": (ShardStore, "some"), "cache": (ByteCache, "keep")}


# --- how fast -------------------------------------------------------------------------------------------------------


def rate(quick: bool = False) -> dict[str, float]:
    """Throughput with shards that are far away, without a cache, over throughput from memory, by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder) / "jpegs", IMAGES)
        pack_reader(ClassFolders(f"{folder}/jpegs"), Path(folder) / "shards", 1 << 24)
        with serve(Path(folder) / "shards", LATENCY) as served:
            return {"shards.rate_over_bare_50ms": in_fresh_process(_share, served.address, 1 if quick else 3)}


def _share(address: str, runs: int, micro_batches: int = 40) -> float:
    """Micro-batches of 8 images of 224 pixels, an encoder that takes about 10 ms an image, one worker, no cache.

    Both sides are timed in turn, so that what else the machine does hits both.
    """
    torch.set_num_threads(1)
    tasks = {f"task{i}": TaskData(train=Packed(address, cache_gib=0), batch_size=BATCH, size=224) for i in range(TASKS)}
    data = MultiTaskDataModule(tasks, num_workers=1, steps_per_epoch=10**6)
    model = MultiTaskModel(Encoder("mobilenetv3_small_050"), data.specs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stream = itertools.chain.from_iterable(data.train_dataloader())
    memory = list(itertools.islice(stream, TASKS))
    ratios = []
    for run in range(runs + 1):
        sides: list[Iterable[TaskBatch]] = [itertools.cycle(memory), stream]
        bare, mine = (_train(model, optimizer, itertools.islice(side, micro_batches)) for side in sides)
        if run:  # the first warms up
            ratios.append(bare / mine)
    return statistics.median(ratios)


def _train(model: MultiTaskModel, optimizer: torch.optim.Optimizer, batches: Iterator[TaskBatch]) -> float:
    started = time.perf_counter()
    optimizer.zero_grad()
    for batch in batches:
        model.task(batch.task).loss(model(batch.images, batch.task), batch.targets).backward()
    optimizer.step()
    return time.perf_counter() - started


# --- whether runs end alike -----------------------------------------------------------------------------------------


def killed(quick: bool = False) -> dict[str, float]:
    """Of runs that are killed in the middle of shards, those that end otherwise than one that reads the files."""
    one_rank, two_ranks = kills(4 if quick else 16, places=AT_SHARDS), [3, 4] if quick else [2, 3, 4, 5]
    both = side_by_side((differing_packed, one_rank), (differing_ranks, two_ranks))
    found = [line for lines in both for line in lines]
    for line in found:
        print(line)
    return {"shards.runs_that_differ": len(found)}


def differing_packed(planned: list[Kill], workers: int = 0) -> list[str]:
    """As `resume.differing`: killed runs read shards, and so does the one left alone, which ends as one of files."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, shards = _projects(folder, workers)
        with serve(shards) as served:
            packed = _packed(shards, plain, served.address)
            found = differing_of(packed, planned, folder, AT_SHARDS)
        finish(fork(plain, folder / "plain"))
        return found + [f"files: {line}" for line in differences_of(folder / "plain", folder / "whole")]


def differing_ranks(rounds: Sequence[int]) -> list[str]:
    """What differs between runs of shards and of files that lose one of two ranks in a round, and go on with one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, shards = _projects(folder, 0)
        found = []
        with serve(shards) as served:
            packed = _packed(shards, plain, served.address)
            for number in rounds:
                runs = [folder / f"{kind}{number}" for kind in ("files", "packed")]
                for config, run in zip((plain, packed), runs, strict=True):
                    _two_ranks(config, run, number)
                    if code := finish(fork(config, run)):
                        found.append(f"{run.name}: ended with {code}: {run.with_suffix('.log').read_text()[-2000:]}")
                found += [f"2 to 1 ranks, round {number}: {line}" for line in differences_of(*runs)][:1]
        return found


def _projects(folder: Path, workers: int) -> tuple[Path, Path]:
    """A config that reads files, and the folder of its shards."""
    plain = project_of(folder / "project", workers)
    main(["data", "pack", "--config", str(plain), "--out", str(folder / "shards"), "--workers", "0"])
    return plain, folder / "shards"


def _packed(shards: Path, plain: Path, address: str) -> Path:
    """The config that reads the shards, with a cache that holds about half of them."""
    config: dict[str, Any] = yaml.safe_load(plain.read_text())
    config["root"] = address
    config["data"]["tasks"] = yaml.safe_load((shards / "tasks.yaml").read_text())["data"]["tasks"]
    for name, task in config["data"]["tasks"].items():
        size = sum(file.stat().st_size for file in (shards / name / "train").glob("*.tar"))
        task["train"]["init_args"]["cache_gib"] = size / 2 / 2**30
    file = plain.with_name("packed.yaml")
    file.write_text(yaml.safe_dump(config))
    return file


def _two_ranks(config: Path, run: Path, number: int) -> None:
    """A run on two ranks, of which the second dies in a round, counted from 1."""
    port = free_port()

    def start(rank: int) -> None:
        os.environ |= torchrun_variables(rank, 2, port)
        if rank:
            die_at("round", number)

    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    ranks = [fork(config, run, lambda rank=rank: start(rank), arguments=options) for rank in (0, 1)]  # type: ignore[misc]
    if (code := finish(ranks[1])) != -signal.SIGKILL:
        log = run.with_suffix(".log").read_text()
        raise RuntimeError(f"The rank was not killed in round {number}, but ended with {code}: {log[-2000:]}")
    os.kill(ranks[0], signal.SIGKILL)
    finish(ranks[0])
