"""A run that was interrupted and goes on, against one that was not: bit for bit."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from builders import SMALL_DETECTION, SMALL_PIXELS, readers_of, small_convnext, small_encoder
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn, TrainerState

from benchmarks import resume
from benchmarks.processes import in_fresh_process
from umedpt_lightning.callbacks.last_checkpoint import LastCheckpoint
from umedpt_lightning.callbacks.run_logger import RunLogger
from umedpt_lightning.cli import main
from umedpt_lightning.data import readers as readers_module
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.sampling import RoundSampler, TaskSamples, TaskStream
from umedpt_lightning.data.loading.schedule import RoundRobin, TaskSize
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.training import MultiTaskModule, Optimization, ParameterGroups
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO
from umedpt_lightning.types import Bags, TaskBatch

ROUNDS, EPOCHS = 5, 3


class PowerCutError(Exception):
    """The power cut."""


class Witness(pl.Callback):
    """Sees what is read and drawn in every round, and cuts the power in one of them."""

    def __init__(self, cut: tuple[Any, int] | None) -> None:
        self.cut, self.seen = cut, {}

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.round = trainer.global_step
        self.seen[self.round] = [trainer.optimizers[0].param_groups[0]["lr"]]
        add = module.bad_samples.add

        def added(batch: TaskBatch) -> None:
            images = batch.images.images if isinstance(batch.images, Bags) else batch.images
            self.seen[self.round].append((batch.names, float(images.float().sum()), float(torch.rand(()))))
            add(batch)
            if self.cut == ("round", self.round):
                raise PowerCutError
            if self.cut and isinstance(self.cut[0], signal.Signals) and self.cut[1] == self.round:
                os.kill(os.getpid(), self.cut[0])
                self.cut = None

        module.bad_samples.add = added if module.bad_samples.add.__name__ == "add" else add

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.cut == ("validation", trainer.global_step) and not trainer.sanity_checking:
            raise PowerCutError
        if self.cut == ("SIGTERM in validation", trainer.global_step) and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path, cut: tuple[Any, int] | None = None, seed: int = 0, **options: Any) -> Any:
    """A run of three epochs of five rounds, from the last checkpoint if there is one; None if it was cut."""
    last = folder / "checkpoints" / "last.ckpt"
    torch.manual_seed(seed)
    readers = options.pop("readers", lambda: readers_of({"a": "class", "b": "mask"}, size=7))()
    optimization = Optimization(groups=ParameterGroups(frozen_stages=options.pop("frozen", 0)))
    tasks = {name: TaskData(train=reader, val=reader, batch_size=2) for name, reader in readers.items()}
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=ROUNDS)
    encoder = small_convnext(0.5)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    module = MultiTaskModule(data.specs, encoder, optimization=optimization, **blocks)
    witness = Witness(cut)
    extra = options.pop("callbacks", list)()
    last_checkpoint = LastCheckpoint(minutes=None, rounds=options.pop("rounds", 2))
    best = ModelCheckpoint(monitor="val/score", mode="max", filename="best", enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=RunLogger(folder),
        default_root_dir=folder,
        callbacks=[witness, *extra, best, last_checkpoint],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": EPOCHS, "log_every_n_steps": 3, **options},
    )
    try:
        trainer.fit(module, data, ckpt_path=last if last.exists() else None)
    except PowerCutError:
        return None
    return trainer, witness


def state(trainer: pl.Trainer) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    folder = Path(trainer.default_root_dir)
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "samples": trainer.train_dataloader.state_dict(),
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "best": trainer.checkpoint_callback.best_model_score,
        "rows": rows(folder),
        "saved": {k: v for k, v in saved.items() if k != "callbacks"},
    }


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "train/samples_per_second"} for row in csv.DictReader(file)]


def assert_same(whole: Any, other: Path, cuts: list[tuple[str, int]], **options: Any) -> None:
    """A run that is cut, and goes on, and so forth, ends as one that is not."""
    whole, seen = whole
    for number, cut in enumerate(cuts):
        assert run(other, cut, seed=number, **options) is None, f"{cut} was never reached"
    begun = (other / "checkpoints" / "last.ckpt").exists()
    resumed, seen_again = run(other, seed=99 * begun, **options)  # its weights and seed come from the checkpoint
    compare(whole, seen, resumed, seen_again)
    assert (min(seen_again.seen) > 0) == begun


def compare(whole: pl.Trainer, seen: Witness, resumed: pl.Trainer, seen_again: Witness) -> None:
    expected, found = state(whole), state(resumed)
    for what, value in expected.items():
        assert list(resume._unequal(what, value, found[what])) == []
    assert seen_again.seen.items() <= seen.seen.items(), "the same samples, random numbers and learning rates"


def bags_and_masks() -> dict[str, Reader]:
    """Nine bags of one or many images, of which two are drawn, beside masks."""
    readers: dict[str, Reader] = dict(readers_of({"a": "class", "b": "mask"}, size=21))
    readers["a"].targets = np.array([int(str(i)[0]) % 3 for i in range(21)])
    return readers | {"a": readers_module.Bags(readers["a"], group=r"sample (\d)", max_instances=2)}


def hidden_and_masks() -> dict[str, Reader]:
    """Images of which other squares are hidden in each pass, beside masks."""
    readers: dict[str, Reader] = dict(readers_of({"a": "class", "b": "mask"}, size=7))
    return readers | {"a": readers_module.Unlabelled(readers["a"])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.Trainer, Witness]:
    """A run that nothing happened to."""
    found: tuple[pl.Trainer, Witness] = run(tmp_path_factory.mktemp("whole"))
    return found


@pytest.mark.parametrize(
    ("cuts", "options"),
    [
        ([("round", 1)], {}),  # before the first checkpoint
        ([("round", 3), ("validation", 5), ("round", 8), ("round", 10), ("round", 14)], {}),
        ([("validation", 2), ("round", 3), ("validation", 4), ("round", 6)], {"val_check_interval": 2, "rounds": 1}),
        ([("validation", 6), ("round", 8)], {"val_check_interval": 3, "check_val_every_n_epoch": None, "rounds": 1}),
        pytest.param([("round", 7), ("round", 12)], {"check_val_every_n_epoch": 2}, marks=pytest.mark.slow),
        pytest.param([("round", 4), ("round", 6)], {"limit_val_batches": 0, "rounds": 1}, marks=pytest.mark.slow),
        ([("round", 6), ("round", 7)], {"max_steps": 8, "max_epochs": -1}),
        ([("round", 8), ("validation", 10)], {"callbacks": lambda: [EMAWeightAveraging(decay=0.5)]}),
        ([("round", 3), ("validation", 5), ("round", 8)], {"readers": bags_and_masks}),
        ([("round", 3), ("validation", 5), ("round", 8)], {"readers": bags_and_masks, "frozen": "all"}),
        pytest.param([("round", 3), ("round", 8)], {"readers": hidden_and_masks}, marks=pytest.mark.slow),
    ],
    ids=[
        "first",
        "five",
        "validations",
        "no epochs",
        "every other",
        "no validation",
        "max_steps",
        "averaged",
        "bags",
        "embedded once",
        "hidden",
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, whole: Any, cuts: Any, options: dict[str, Any]
) -> None:
    assert_same(run(tmp_path / "whole", **options) if options else whole, tmp_path / "cut", cuts, **options)


def test_random_numbers_differ_between_rounds(whole: Any) -> None:
    _, witness = whole
    drawn = [number for seen in witness.seen.values() for _, _, number in seen[1:]]
    assert len(set(drawn)) == len(drawn) == 2 * ROUNDS * EPOCHS


def test_a_run_that_was_stopped_early_does_not_go_on(tmp_path: Path) -> None:
    def stopping() -> list[pl.Callback]:
        return [EarlyStopping("val/score", mode="max", patience=1, min_delta=10.0)]

    trainer, _ = run(tmp_path, callbacks=stopping)
    assert trainer.global_step == 2 * ROUNDS
    before = rows(tmp_path)
    trainer, witness = run(tmp_path, callbacks=stopping)
    assert trainer.global_step == 2 * ROUNDS
    assert witness.seen == {}
    assert rows(tmp_path) == before


def test_a_run_that_was_stopped_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    def stopping(patience: int) -> list[pl.Callback]:
        return [EarlyStopping("val/score", mode="max", patience=patience, min_delta=10.0)]

    assert run(tmp_path, callbacks=lambda: stopping(1))[0].global_step == 2 * ROUNDS
    assert run(tmp_path, callbacks=lambda: stopping(9))[0].global_step == EPOCHS * ROUNDS


def test_a_run_cut_short_by_max_steps_goes_on_in_mid_epoch(tmp_path: Path) -> None:
    # a constant learning rate, since the schedule knows the number of steps
    run(tmp_path / "short", max_steps=7, max_epochs=-1, rounds=100)
    saved = torch.load(tmp_path / "short" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 7
    _, witness = run(tmp_path / "short", max_steps=11, max_epochs=-1)
    assert min(witness.seen) == 7
    assert [int(row["step"]) + 1 for row in rows(tmp_path / "short") if row["val/score"]] == [5, 10]


@pytest.mark.parametrize(
    ("cut", "code", "step"),
    [
        ((signal.SIGTERM, 2), 143, 3),
        ((signal.SIGINT, 6), 130, 7),
        ((signal.SIGTERM, 9), 143, 10),  # in the last round of an epoch: after the validation
        (("SIGTERM in validation", 10), 143, 10),
    ],
    ids=str,
)
def test_a_signal_ends_the_run_after_the_round_with_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, whole: Any, capsys: pytest.CaptureFixture[str], cut: Any, code: int, step: int
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, cut, rounds=100)
    assert stopped.value.code == code
    assert before == {number: signal.getsignal(number) for number in before}
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    told = capsys.readouterr().out
    assert f"last.ckpt after round {step}" in told
    assert "--ckpt_path last" in told
    resumed, seen = run(tmp_path, seed=99)
    assert min(seen.seen) == step
    compare(*whole, resumed, seen)


def test_a_second_ctrl_c_ends_the_run_at_once_and_names_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Twice(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 6:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=lambda: [Twice()])
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert "The last checkpoint is" in capsys.readouterr().out


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of SLURM; the file that its ``scontrol`` writes to."""
    asked = tmp_path / "asked"
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    names = {"NTASKS": 1, "JOB_ID": 4711, "JOB_NAME": "umedpt", "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return asked


@pytest.mark.parametrize("by", ["last", "hpc"])
def test_slurm_requeues_after_the_round_and_the_job_goes_on_exactly(
    tmp_path: Path, whole: Any, slurm: Path, by: str
) -> None:
    folder = tmp_path / "run"

    class Earlier(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            (folder / "hpc_ckpt_3.ckpt").touch()

    trainer, _ = run(folder, (signal.SIGUSR1, 6), rounds=100, callbacks=lambda: [Earlier()])
    assert slurm.read_text() == "requeue 4711\n"
    assert trainer.global_step == ROUNDS * EPOCHS, "it goes on until SLURM ends it"
    saved = torch.load(folder / "hpc_ckpt_1.ckpt", weights_only=True)
    assert saved["global_step"] == 7, "not in the middle of the round"
    (folder / "checkpoints" / "last.ckpt").unlink()
    if by == "last":
        (folder / "checkpoints" / "previous.ckpt").rename(folder / "checkpoints" / "last.ckpt")
    resumed, seen = run(folder, seed=99)
    assert min(seen.seen) == (10 if by == "last" else 7)
    compare(*whole, resumed, seen)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 2), (3, 2)])
def test_on_another_number_of_ranks_a_pass_is_read_once_and_whole(before: int, after: int) -> None:
    size, batch, rounds = 101, 3, 5

    def samplers(ranks: int, consumed: dict[str, int]) -> list[RoundSampler]:
        shares, schedule = {"a": TaskSamples(TaskStream("a", size, 0), batch)}, RoundRobin({"a": TaskSize(size)})
        made = [RoundSampler(shares, schedule, rank, ranks) for rank in range(ranks)]
        for sampler in made:
            sampler.consumed |= consumed
        return made

    read: list[int] = []
    consumed = {"a": 0}
    for ranks, number in ((before, rounds), (after, size)):  # the second reads on over the end of the pass
        parts = samplers(ranks, consumed)
        streams = [iter(part) for part in parts]
        for _ in range(number):
            read += [key.item for stream in streams for key in next(stream)]
            for part in parts:
                part.advance()
        consumed = dict(parts[0].consumed)
    assert rounds * before * batch % (after * batch) or before % after == 0 or after % before == 0
    assert len(read) == consumed["a"]
    for start in range(0, len(read) - size, size):
        assert sorted(read[start : start + size]) == list(range(size))


def test_counts_of_all_ranks_are_taken_over_by_fewer_and_by_more() -> None:
    data = MultiTaskDataModule({"a": TaskData(train=readers_of({"a": "class"})["a"])})
    counted = [
        {
            "losses": {"sums": {"a": torch.tensor(float(r))}, "counts": {"a": 1}, "samples": 2},
            "replaced": {"counts": {"a": r}},
        }
        for r in range(4)
    ]
    for ranks in (1, 2, 4, 8):
        total = 0.0
        for rank in range(ranks):
            module = MultiTaskModule(data.specs, small_encoder())
            module._trainer = _Ranks(rank, ranks)  # type: ignore[assignment]
            module.on_load_checkpoint(
                {
                    "counted": counted,
                    "randomness": {"seed": 1},
                    "faults": {"dropped": {}, "in_a_row": {}},
                    "state_dict": module.state_dict(),
                }
            )
            total += module.bad_samples.read(torch.device("cpu")).get("a", 0.0)
            mine = range(rank, 4, ranks)
            losses, samples = module.losses.read(torch.device("cpu"))
            assert losses == ({"a": sum(mine) / len(mine)} if mine else {})
            assert samples == 2 * len(mine)
        assert total == 0 + 1 + 2 + 3


class _Ranks:
    def __init__(self, rank: int, ranks: int) -> None:
        self.global_rank, self.world_size = rank, ranks
        self.strategy = self
        self.state = TrainerState(TrainerFn.FITTING)


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    config["data"]["tasks"] = {"sizes": config["data"]["tasks"]["sizes"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    fit = ["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(folder.parent), "--trainer.logger", "false"]
    fit += ["--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null"]
    main([*fit, "--last.rounds", "1"])
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*the one before: .*previous\.ckpt"):
        main([*fit, "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    assert torch.load(last, weights_only=True)["global_step"] == 9
    for name in ("last", "previous", "best"):
        (folder / f"{name}.ckpt").write_bytes(b"rubbish")
    for name in ("last", "best"):
        with pytest.raises(SystemExit, match=rf"{name}\.ckpt is damaged.*begin anew"):
            main([*fit, "--ckpt_path", name])
    with pytest.raises(SystemExit, match="already holds a run"):
        main(fit)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # SLURM starts a requeued job by the same command
    with pytest.raises(SystemExit, match=r"last\.ckpt is damaged"):
        main(fit)


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_runs_killed_anywhere_end_as_one_that_was_left_alone(balanced: bool) -> None:
    planned = resume.kills(24)
    assert {kill.place for kill in planned} == {"clock", *resume.PLACES}
    assert in_fresh_process(resume.differing, planned, 0, False, balanced) == []


@pytest.mark.slow
def test_runs_with_bags_end_so_too() -> None:
    assert in_fresh_process(resume.differing, resume.kills(4, seed=1), 0, True) == []
