"""Runs that are killed and go on, against one that was left alone; and how soon a resumed run has its first batch."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import in_fresh_process, side_by_side
from tests.project import write_project
from umedpt_lightning.callbacks.run_logger import _AppendingWriter
from umedpt_lightning.cli import main, training
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.task_losses import TaskLosses

assert training  # imported here, so that every run that is forked has it
#: Functions by what messages call them.
Places = Mapping[str, tuple[Any, str]]
# Where a run is killed. Each names a function; the run dies at one of its calls.
PLACES: Places = {
    "round": (TaskLosses, "add"),
    "validation": (MultiTaskModule, "validation_step"),
    "logging": (_AppendingWriter, "save"),
    "writing": (torch, "save"),
    "renaming": (Path, "replace"),
    "synchronising": (os, "fsync"),
}
# What no two runs have in common: speeds, folders, and a score that Lightning saves but does not restore or use.
_DIFFERENT = ("samples_per_second", "dirpath", "_path", "best_k_models", "current_score")


class Kill(NamedTuple):
    """When a run is killed.

    Attributes:
        place: A key of `PLACES`, or "clock".
        when: Which of the calls, or after what share of the time of a whole run; 0 is the first, 1 the last.
    """

    place: str
    when: float


def kills(number: int, seed: int = 0, places: Places = PLACES) -> list[Kill]:
    """Half of them by the clock, the others at each of the places in turn, at random times that are spread evenly."""
    rng = random.Random(seed)
    chosen = ["clock" if i % 2 == 0 else list(places)[i // 2 % len(places)] for i in range(number)]
    times = [(i + rng.random()) / number for i in range(number)]
    rng.shuffle(times)
    return [Kill(place, when) for place, when in zip(chosen, times, strict=True)]


def differing(planned: list[Kill], workers: int = 0, bags: bool = False, balanced: bool = False) -> list[str]:
    """What differs between runs that were killed and one that was not; call it in a process that has used no torch.

    Args:
        planned: One run each.
        workers: Processes that read.
        bags: Whether one of the tasks sees bags, of which some images are drawn in each pass.
        balanced: Whether gradients are weighed by sketches, of which checkpoints keep an average.

    Returns:
        A line a run that differs.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        return differing_of(project_of(Path(name), workers, bags, balanced), planned, Path(name))


def differing_of(config: Path, planned: list[Kill], folder: Path, places: Places = PLACES) -> list[str]:
    """As `differing`, of the runs of any config, which are killed at any places; their folders come into `folder`."""
    started = time.monotonic()
    calls = _whole(config, folder / "whole", places)
    seconds = time.monotonic() - started
    found = []
    for number, kill in enumerate(planned):
        run = folder / f"run{number}"
        died = _killed(config, run, kill, calls, seconds, places)
        code = finish(fork(config, run))
        if code != 0:
            text = (folder / f"run{number}.log").read_text()[-2000:]
            found.append(f"{kill}: the resumed run ended with {code}: {text}")
        elif differences := list(differences_of(folder / "whole", run)):
            found.append(f"{kill}: {', '.join(differences[:5])}")
        elif not died and kill.place != "clock":  # a run may be quicker than the one that was left alone
            found.append(f"{kill}: was over before it was killed")
    return found


def project_of(folder: Path, workers: int, bags: bool = False, balanced: bool = False) -> Path:
    """Stochastic depth and augmentation; logs and checkpoints every other round, validations every third."""
    root = write_project(folder)
    config = yaml.safe_load((root / "config.yaml").read_text())
    config["model"]["encoder"]["init_args"] = {"name": "test_convnext", "drop_path_rate": 0.5}
    config["data"] |= {"steps_per_epoch": 6, "num_workers": workers}
    config["data"]["tasks"]["sizes"]["augment"] = "histology"
    config["trainer"] |= {"val_check_interval": 3, "log_every_n_steps": 2, "enable_progress_bar": False}
    config["last"] = {"rounds": 2}
    if bags:
        config["data"]["tasks"]["patients"] = _patients(root)
        block = {"class_path": "GatedAttention", "init_args": {"chunk": 2, "position": True}}
        config["model"]["blocks"] = {"bag": block}
    if balanced:
        weighting = {"class_path": "torchjd.aggregation.PCGradWeighting"}  # draws an order in each round
        config["model"]["aggregator"] = {"class_path": "SketchBalance", "init_args": {"weighting": weighting}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root / "config.yaml"


def _patients(root: Path) -> dict[str, Any]:
    """A task of times to an event of patients, each of whom has three images in a row."""
    with (root / "manifest.csv").open() as stream:
        images = [
            [row["path"], f"{row['split']}{int(Path(row['path']).stem) // 3}", row["split"], 1]
            for row in csv.DictReader(stream)
        ]
    patients = [
        [name, 10 + 7 * number % 12, number % 2] for number, name in enumerate(sorted({row[1] for row in images}))
    ]
    for name, rows in (
        ("images", [["path", "patient", "split", "x"], *images]),
        ("patients", [["patient", "days", "died"], *patients]),
    ):
        with (root / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    parts = {}
    for part in ("train", "val"):
        table = {"file": str(root / "images.csv"), "group": "patient"}
        reader = {
            "class_path": "ManifestNumbers",
            "init_args": {"table": table, "split": part, "quantities": {"x": ""}},
        }
        options: dict[str, Any] = {"reader": reader, "of": "patient", "position": r"(\d+)\.png"}
        options |= {"table": {"file": str(root / "patients.csv"), "path": "patient"}}
        options |= {"columns": {"time": "days", "event": "died", "unit": "days"}}
        parts[part] = {"class_path": "Bags", "init_args": options | ({"max_instances": 2} if part == "train" else {})}
    return parts | {"batch_size": 2, "augment": "histology"}


def _whole(config: Path, run: Path, places: Places) -> dict[str, int]:
    """A run that is left alone, and how often it called the functions at `places`."""
    counts = dict.fromkeys(places, 0)

    def counting(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            counts[place] += 1
            return function(*args, **options)

        return counted

    def count() -> None:
        wrap(counting, places)

    def tell() -> None:
        (run / "calls.yaml").write_text(yaml.safe_dump(counts))

    code = finish(fork(config, run, count, tell))
    if code != 0:
        raise RuntimeError(f"The run ended with {code}: {run.with_suffix('.log').read_text()[-3000:]}")
    found: dict[str, int] = yaml.safe_load((run / "calls.yaml").read_text())
    return found


def _killed(config: Path, run: Path, kill: Kill, calls: dict[str, int], seconds: float, places: Places) -> bool:
    """Starts a run and kills it; whether it had not ended before."""
    if kill.place == "clock":
        pid = fork(config, run)
        time.sleep(kill.when * 0.95 * seconds)
        os.kill(pid, signal.SIGKILL)
        return finish(pid) == -signal.SIGKILL
    call = 1 + int(kill.when * calls[kill.place])
    return finish(fork(config, run, lambda: die_at(kill.place, call, places))) == -signal.SIGKILL


def die_at(at: str, call: int, places: Places = PLACES) -> None:
    """Lets this process die at one of its calls, counted from 1, of the function at a place."""
    left = [call]

    def deadly(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            left[0] -= place == at
            if place == at and not left[0]:
                if place == "writing":  # dies in the middle of it
                    buffer = io.BytesIO()
                    function(args[0], buffer)
                    args[1].write(buffer.getvalue()[: buffer.tell() // 2])
                    args[1].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return called

    wrap(deadly, places)


def wrap(wrapper: Callable[[str, Callable[..., Any]], Callable[..., Any]], places: Places) -> None:
    for place, (owner, name) in places.items():
        setattr(owner, name, wrapper(place, getattr(owner, name)))


def fork(
    config: Path,
    run: Path,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    arguments: Sequence[str] = (),
) -> int:
    """Starts ``umedpt fit … --ckpt_path last`` in a process that has everything imported; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = os.fdopen(log, "a", buffering=1)  # a fresh process writes to nowhere
        os.environ["UMEDPT_CACHE"] = f"{run}.cache"  # one run's is warm for the next
        before()
        main(["fit", "--config", str(config), "--run", str(run), "--ckpt_path", "last", *arguments])
        after()
        code = 0
    except SystemExit as error:
        print(error)
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(repr(error))
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences_of(one: Path, other: Path) -> Iterator[str]:
    """What differs in the last and the best checkpoint and the metrics of two runs."""
    for name in ("last.ckpt", "best.ckpt"):
        contents = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other)]
        yield from _unequal(name, *contents)
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (one, other)]
    yield from _unequal("metrics.csv", *rows)


def _unequal(name: str, one: Any, other: Any) -> Iterator[str]:
    if name.endswith(_DIFFERENT):
        return
    if type(one) is not type(other):
        yield name
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            yield f"keys of {name}"
        else:
            for key in one:
                yield from _unequal(f"{name}/{key}", one[key], other[key])
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"length of {name}: {len(one)} and {len(other)}"
        for i, pair in enumerate(zip(one, other, strict=False)):
            yield from _unequal(f"{name}/{i}", *pair)
    elif isinstance(one, torch.Tensor):
        if not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
            yield name
    elif one != other and not (one != one and other != other):  # NaN is unequal to itself
        yield f"{name}: {one} and {other}"


def first_batch(runs: int) -> float:
    """CPU time until the first round of a run that goes on at round 20,000, over that of one from the start."""
    with tempfile.TemporaryDirectory() as name:
        make_jpegs(Path(name), 320)
        ratios = []
        for run in range(runs + 1):
            late, early = _first_batch(name, 20_000), _first_batch(name, 0)
            if run:  # the first fills the file cache
                ratios.append(late / early)
    return statistics.median(ratios)


def _first_batch(folder: str, round_: int) -> float:
    tasks = {f"task{i}": TaskData(train=ClassFolders(folder), batch_size=8, size=224) for i in range(4)}
    loader = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=10**6).train_dataloader()
    state = {"rounds": round_, "consumed": {task: 8 * round_ for task in tasks}, "costs": {}}
    started = time.process_time()
    loader.load_state_dict(state)
    next(iter(next(iter(loader))))
    return time.process_time() - started


def runs_that_differ(number: int, balanced: bool = False) -> int:
    """How many of so many killed runs do, two at a time; prints what differs. See `differing`."""
    planned = kills(number)
    half = len(planned) // 2
    halves = side_by_side(*((differing, part, 0, False, balanced) for part in (planned[:half], planned[half:])))
    found = [line for lines in halves for line in lines]
    for line in found:
        print(line)
    return len(found)


def measure(quick: bool = False) -> dict[str, float]:
    """The figures of resuming."""
    differ = runs_that_differ(4 if quick else 20)
    ratio = in_fresh_process(first_batch, 5 if quick else 11)
    return {"resume.runs_that_differ": differ, "resume.first_batch_20000_over_0": round(ratio, 3)}


def balanced(quick: bool = False) -> dict[str, float]:
    """The figure of resuming runs whose gradients are weighed."""
    return {"balance.runs_that_differ": runs_that_differ(4 if quick else 20, balanced=True)}
