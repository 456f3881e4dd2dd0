"""A worker that dies or hangs: the run ends with the task and the sample that it was reading."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from builders import MemoryReader, small_encoder, trainer_of
from torch.utils.data._utils import signal_handling

from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import Subset
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import Sample

DEADLY = 5


def _segmentation_fault() -> None:
    ctypes.string_at(0)


DEATHS: dict[str, tuple[Callable[[], Any], str]] = {
    "exit": (lambda: os._exit(3), r"with exit code 3\..*`umedpt data check`"),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), r"by signal SIGKILL\..*lower data\.num_workers"),
    "crash": (_segmentation_fault, r"by signal SIGSEGV\..*`umedpt data check`"),
}


class Nameless(MemoryReader):
    """One of its samples is the end of the first process that reads it, and a sample must be read to be named.

    Of the first, since a second death would interrupt the test.
    """

    def __init__(self, die: Callable[[], Any]) -> None:
        super().__init__("class", size=8)
        self.die = die
        self.dead = multiprocessing.RawValue("b", 0)

    def __getitem__(self, index: int) -> Sample:
        if index == DEADLY and not self.dead.value:
            self.dead.value = 1
            self.die()
        return super().__getitem__(index)


class Deadly(Nameless):
    """It can name a sample without reading it."""

    def name(self, index: int) -> str:
        return f"file{index}.png"


def data_of(reader: Reader, **options: Any) -> MultiTaskDataModule:
    tasks = {
        "good": TaskData(train=MemoryReader("mask"), val=MemoryReader("mask"), batch_size=2),
        "deadly": TaskData(train=reader, val=reader, batch_size=2),
    }
    return MultiTaskDataModule(tasks, **{"num_workers": 2, **options})


def run(data: MultiTaskDataModule, method: str = "fit", **options: Any) -> None:
    trainer = trainer_of(max_steps=9, limit_val_batches=1.0, **options)
    getattr(trainer, method)(MultiTaskModule(data.specs, small_encoder()), data)


@pytest.mark.parametrize("method", ["fit", "validate"])
@pytest.mark.parametrize("death", DEATHS)
def test_the_death_of_a_worker_is_told_with_task_sample_and_mend(death: str, method: str) -> None:
    die, message = DEATHS[death]
    expected = rf"The worker that was reading file{DEADLY}\.png \(sample {DEADLY}\) of task 'deadly' ended {message}"
    with pytest.raises(
        (RuntimeError, TypeError), match=rf"(?s){expected}"
    ):  # `inspect` makes the latter of what interrupts it
        run(data_of(Deadly(die)), method)


def test_a_death_that_interrupts_code_which_raises_another_error_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # see below

    class Translating(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            try:
                Busy().on_train_batch_start()
            except RuntimeError as error:
                raise TypeError("unsupported callable") from error

    with pytest.raises(TypeError, match=rf"(?s)unsupported callable.*was reading file{DEADLY}\.png"):
        run(data_of(Deadly(lambda: os._exit(3)), prefetch=8), callbacks=[Translating()])


@pytest.mark.parametrize("part", [False, True])
def test_a_sample_that_must_be_read_for_its_name_is_told_by_its_number(part: bool) -> None:
    reader = Nameless(lambda: os._exit(3))
    with pytest.raises(RuntimeError, match=rf"was reading sample {DEADLY} of task 'deadly'"):
        run(data_of(Subset(reader, 0, 8) if part else reader))


class Busy(pl.Callback):
    """Waits in Python, as a long step does, while the workers read ahead."""

    def on_train_batch_start(self, *_: Any) -> None:
        for _ in range(200):
            time.sleep(0.01)


def test_a_death_in_the_midst_of_a_step_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch hears of a death by a signal handler that it sets once, and Lightning takes it away after its first run
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    data = data_of(Deadly(lambda: os._exit(3)), prefetch=8)
    with pytest.raises(RuntimeError) as raised:
        run(data, callbacks=[Busy()])
    told = [str(raised.value), *getattr(raised.value, "__notes__", [])]
    assert "exited unexpectedly" in told[0], "it was not the step that was interrupted"
    assert sum(f"was reading file{DEADLY}.png" in text for text in told) == 1


def test_a_worker_that_hangs_is_told_after_the_time_that_was_given_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # how long torch waits for it to end
    data = data_of(Deadly(lambda: time.sleep(60)), timeout=1)
    with pytest.raises(RuntimeError, match=rf"No micro-batch came for 1 s \(data\.timeout\).*file{DEADLY}\.png"):
        run(data)
    assert not multiprocessing.active_children()


def test_a_file_that_cannot_be_read_is_told_as_ever() -> None:
    def fail() -> None:
        raise ValueError("file5.png: broken. Mend it.")

    with pytest.raises(ValueError, match=r"Task 'deadly': file5\.png: broken"):
        run(data_of(Deadly(fail)))
    assert not multiprocessing.active_children()


def test_no_worker_outlives_a_run() -> None:
    data = data_of(MemoryReader("class", size=8))
    for _ in range(2):  # the same data can be trained on again
        trainer = trainer_of(max_steps=5, limit_val_batches=4)  # validation is broken off
        trainer.fit(MultiTaskModule(data.specs, small_encoder()), data)
        assert not multiprocessing.active_children()


def test_an_error_in_training_ends_the_workers() -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run(data_of(MemoryReader("class", size=8)), callbacks=[Failing()])
    assert not multiprocessing.active_children()
