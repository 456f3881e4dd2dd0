"""What the Trainer costs beside a bare PyTorch loop that does the same work."""

from __future__ import annotations

import copy
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.memory import trainer_of
from benchmarks.micro_batches import batches_of, plan_of, round_of, specs_of
from benchmarks.processes import in_fresh_process, on_a_terminal
from benchmarks.timing import cpu_seconds
from umedpt_lightning.blocks import Encoder, Pyramid
from umedpt_lightning.callbacks.progress import RunBar
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.types import Round, TaskBatch

SIDE = 64
_LOGGED = 10  # a row of the log in so many rounds, as `umedpt fit` has it


def measure(quick: bool = False) -> dict[str, float]:
    """Ratios at 4 tasks, and how the difference grows from 4 tasks to 64."""
    steps = 60 if quick else 300
    ratio, bare = in_fresh_process(_at_17_ms, steps)
    return in_fresh_process(_longer, steps) | {
        "speed.trainer_over_bare_17ms_4_tasks": ratio,
        "speed.bare_step_ms_of_17": 1e3 * bare,
    }


def _at_17_ms(steps: int) -> tuple[float, float]:
    """The ratio, and the seconds of a bare step."""
    torch.set_num_threads(1)  # two that wait for each other would be measured
    times = compare(4, _images_for(17e-3, _few_layers), 2 * steps, _few_layers)
    return _ratio(times.trainer, times.bare), statistics.median(times.bare)


def _longer(steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    micro_batch = compare(4, _images_for(4 * 11e-3), steps // 2)
    long = compare(4, _images_for(170e-3), steps // 5)
    few, many = (compare(tasks, 1, steps // turns, _one_layer) for tasks, turns in ((4, 1), (64, 2)))
    return {
        "speed.trainer_over_bare_170ms": _ratio(long.trainer, long.bare),
        "speed.step_over_forward_backward": _ratio(micro_batch.step, micro_batch.forward_backward),
        "speed.overhead_ms_per_task": 1e3 * (_difference(many) - _difference(few)) / 60,
        "speed.bare_step_ms_of_170": 1e3 * statistics.median(long.bare),
    }


def _small() -> Encoder:
    return Encoder("test_convnext")


class _Plain(Encoder):
    """Layers that end with 16 channels at a 32nd of the resolution."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__("test_convnext")
        self.net = nn.Sequential(*layers)
        self.channels, self.strides = [16], [32]

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        size = (images.shape[2], images.shape[3])
        return Pyramid([self.net(images)], self.strides, size, size)


def _one_layer() -> Encoder:
    """Takes so little time that what the Trainer adds does not drown in the noise of its own."""
    return _Plain(nn.AvgPool2d(32), nn.Conv2d(3, 16, kernel_size=1))


def _few_layers() -> Encoder:
    """Takes some milliseconds a micro-batch, where a single image takes 10 with an encoder used in earnest."""
    wide = nn.Conv2d(32, 32, kernel_size=3, padding=1)
    return _Plain(
        nn.Conv2d(3, 32, kernel_size=4, stride=4), wide, nn.GELU(), nn.Conv2d(32, 16, kernel_size=8, stride=8)
    )


class Times:
    """CPU seconds a step, an entry for so many steps as are logged together.

    Attributes:
        trainer: All that Lightning does from round to round.
        step: The module's `training_step` alone.
        bare: The bare loop.
        forward_backward: The forward and backward passes of the bare loop.
    """

    def __init__(self) -> None:
        self.trainer: list[float] = []
        self.step: list[float] = []
        self.bare: list[float] = []
        self.forward_backward: list[float] = []


def compare(tasks: int, images: int, steps: int, encoder: Callable[[], Encoder] = _small) -> Times:
    """The Trainer with bar, CSV log and all losses, and a bare loop, a step of each in turn.

    What else the machine does comes and goes within a second, so that longer turns than one step would not be alike:
    turns of half a second differed by 4 % where both sides were the bare loop.
    """
    torch.manual_seed(0)
    specs = specs_of(tasks)
    module = MultiTaskModule(specs, encoder())
    rounds = _InTurn(batches_of(specs, images, SIDE), copy.deepcopy(module.model), steps)
    module.training_step = rounds.timed(module.training_step)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, on_a_terminal():
        trainer_of(folder, max_steps=len(rounds), log_every_n_steps=_LOGGED, callbacks=[RunBar()]).fit(module, rounds)
    return rounds.times


class _InTurn:
    """A loader that lets the bare loop train between the rounds that it hands out, and looks at the clock."""

    def __init__(self, batches: list[TaskBatch], model: MultiTaskModel, steps: int) -> None:
        self.batches, self.blocks = batches, steps // _LOGGED
        self._plan = plan_of(batches)
        self.times = Times()
        self._loop = _BareLoop(model, batches)
        self._in_step = 0.0

    def __len__(self) -> int:
        return _LOGGED * (self.blocks + 1) + 1

    def __iter__(self) -> Iterator[Round]:
        for block in range(self.blocks + 1):
            trainer = bare = 0.0
            self._in_step = self._loop.forward_backward = 0.0
            for _ in range(_LOGGED):
                start = time.process_time()
                yield round_of(self.batches, self._plan)
                trainer += time.process_time() - start
                bare += cpu_seconds(self._loop.step)
            if block:  # the first warms up
                self.times.trainer.append(trainer / _LOGGED)
                self.times.step.append(self._in_step / _LOGGED)
                self.times.bare.append(bare / _LOGGED)
                self.times.forward_backward.append(self._loop.forward_backward / _LOGGED)
        yield round_of(self.batches, self._plan)  # after it nobody asks for more, so the blocks must be done before it

    def timed(self, training_step: Callable[..., object]) -> Callable[..., object]:
        """The same step, its time added up."""

        @functools.wraps(training_step)  # Lightning looks at its signature
        def step(batch: Round, batch_idx: int) -> object:
            start = time.process_time()
            result = training_step(batch, batch_idx)
            self._in_step += time.process_time() - start
            return result

        return step


class _BareLoop:
    """What one would write by hand: every task's loss kept, clipped, one AdamW, a schedule."""

    def __init__(self, model: MultiTaskModel, batches: list[TaskBatch]) -> None:
        self.model, self.batches = model.train(), batches
        self.optimizer = Optimization().build_optimizer(model)
        self.schedule = Optimization().build_schedule(self.optimizer, 10**6)
        self.losses: dict[str, Tensor] = {}
        self.forward_backward = 0.0

    def step(self) -> None:
        self.optimizer.zero_grad()
        start = time.process_time()
        for batch in self.batches:
            loss = self.model.task(batch.task).loss(self.model(batch.images, batch.task), batch.targets)
            (loss / len(self.batches)).backward()
            self.losses[batch.task] = loss.detach()
        self.forward_backward += time.process_time() - start
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()


def _images_for(seconds: float, encoder: Callable[[], Encoder] = _small) -> int:
    """Images in a micro-batch where a bare step of 4 tasks is to take about so long."""
    specs = specs_of(4)
    loop = _BareLoop(MultiTaskModel(encoder(), specs), [])
    repetitions = max(5, round(0.4 / seconds))

    def took(images: int) -> float:
        loop.batches = batches_of(specs, images, SIDE)
        loop.step()  # the first of a size chooses kernels
        return statistics.median(cpu_seconds(loop.step) for _ in range(repetitions))

    took(9)  # a process is slow at first
    fewest, images = took(1), 9
    for _ in range(3):
        an_image = (took(images) - fewest) / (images - 1)
        images = max(2, round((seconds - fewest) / an_image) + 1)
    return images


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def _difference(times: Times) -> float:
    return statistics.median(a - b for a, b in zip(times.trainer, times.bare, strict=True))
