"""What a round of training costs, phase by phase."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from umedpt_lightning.training.module import MultiTaskModule
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.types import BatchTargets, Round, TaskBatch

#: What a round is made of; all but ``step`` belong to a micro-batch.
Phase = Literal["waiting", "transfer", "forward", "backward", "step"]
_Times = dict[tuple[Phase, str], float]


@dataclass
class TaskCost:
    """What a micro-batch of a task costs in training.

    Attributes:
        micro_batches: How many there are in a round, on average.
        images: Shape ``(B, C, H, W)`` of its images, of the largest micro-batch if they differ.
        batch_bytes: Its images and targets.
        saved_bytes: What the forward pass keeps for the backward pass.
        device_bytes: Most memory of the accelerator in use meanwhile, weights and all; 0 on a CPU.
        waiting: Seconds until it is there.
        transfer: Seconds until it is on the device.
        forward: Seconds of the forward pass with the loss.
        backward: Seconds of the backward pass.
    """

    micro_batches: float = 0.0
    images: tuple[int, ...] = ()
    batch_bytes: int = 0
    saved_bytes: int = 0
    device_bytes: int = 0
    waiting: float = 0.0
    transfer: float = 0.0
    forward: float = 0.0
    backward: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of a micro-batch in all."""
        return self.waiting + self.transfer + self.forward + self.backward


class RoundTimer(pl.Callback):
    """Measures the rounds of a fit that is otherwise as always; at every moment the clock of one phase runs.

    Steps are made with a learning rate of zero, so that weights stay as they are; so do buffers. Where micro-batches of
    several tasks go through the shared blocks together, each counts for its share of the pixels.

    Args:
        warm_up: Rounds that do not count: workers start, memory is allocated, kernels are chosen.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self._tasks: dict[str, TaskCost] = {}
        self._rounds: list[tuple[_Times, Counter[str]]] = []
        self._times: _Times = defaultdict(float)
        self._shared: dict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        self._phase: Phase = "step"
        self._task = ""
        self._pack: list[str] = []
        self._pixels: dict[str, int] = {}
        self._since = time.perf_counter()
        self._meter: SavedBytes | None = None
        self._device = torch.device("cpu")

    @property
    def tasks(self) -> dict[str, TaskCost]:
        """The cost of every task that came up in a counted round.

        Medians, but the mean of waiting: workers that finish together make one micro-batch wait and the next not.
        """
        found = {}
        for name, cost in self._tasks.items():
            counted = [(times, counts[name]) for times, counts in self._measured if counts[name]]
            if not counted:
                continue
            each: dict[Phase, list[float]] = {
                phase: [times[phase, name] / count for times, count in counted]
                for phase in ("waiting", "transfer", "forward", "backward")
            }
            cost.waiting = mean(each["waiting"])
            cost.transfer, cost.forward = median(each["transfer"]), median(each["forward"])
            cost.backward = median(each["backward"])
            cost.micro_batches = sum(count for _, count in counted) / len(self._measured)
            found[name] = cost
        return found

    @property
    def step(self) -> float:
        """Seconds that a round takes beside its micro-batches: exchange of gradients, clipping, optimizer, logs."""
        return median(times["step", ""] for times, _ in self._measured)

    @property
    def rounds(self) -> list[float]:
        """Seconds of each counted round."""
        return [sum(times.values()) for times, _ in self._measured]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch the model."""
        if not isinstance(pl_module, MultiTaskModule):
            raise TypeError(f"Rounds are those of a MultiTaskModule, but this is a {type(pl_module).__name__}.")
        self._device = pl_module.device
        self._module = pl_module
        self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        pl_module.backward = self._backward  # type: ignore[method-assign]  # until the end
        model = pl_module.model
        # the encoder too, since micro-batches that are packed together do not go through the whole model at once
        self._hooks = [m.register_forward_pre_hook(lambda *_: self._enter("forward")) for m in (model, model.encoder)]
        for name in model.tasks:
            self._hooks.append(
                model.task(name).register_forward_pre_hook(lambda *_, name=name: self._pack.append(name))
            )

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Round, *_: Any) -> None:
        """Ends the round before, with all that Lightning did since, and watches this one."""
        self._enter("step")
        if self._counts:
            self._rounds.append((self._times, self._counts))
        self._times, self._counts = defaultdict(float), Counter()
        batch.stream = self._watch(batch.stream)

    def _backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The module's, for one task or for several that went through the blocks together."""
        self._enter("backward")
        type(self._module).backward(self._module, loss, *args, **kwargs)
        self._enter("step")
        pixels = sum(self._pixels[name] for name in self._pack)
        for name in self._pack:
            share, cost = self._pixels[name] / pixels, self._tasks[name]
            for phase in ("forward", "backward"):
                self._times[phase, name] += share * self._shared[phase]
            if self._meter is not None and not cost.saved_bytes:
                cost.saved_bytes = round(share * self._meter.peak)
            if self._device.type == "cuda":
                cost.device_bytes = max(cost.device_bytes, torch.cuda.max_memory_allocated(self._device))
        self._pack, self._meter = [], None
        self._shared.clear()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Lets the step do its work without an effect."""
        for group in optimizer.param_groups:
            group["lr"] = 0.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the model as it was."""
        del pl_module.backward
        for hook in self._hooks:
            hook.remove()
        for name, buffer in pl_module.named_buffers():
            buffer.copy_(self._buffers[name])

    @property
    def _measured(self) -> list[tuple[_Times, Counter[str]]]:
        return self._rounds[self.warm_up :]

    def _watch(self, stream: Iterator[TaskBatch]) -> Iterator[TaskBatch]:
        self._enter("waiting")
        for batch in stream:
            self._task = batch.task
            self._enter("transfer")
            self._counts[batch.task] += 1
            self._look_at(batch)
            yield batch
            self._enter("waiting")

    def _look_at(self, batch: TaskBatch) -> None:
        cost = self._tasks.setdefault(batch.task, TaskCost())
        if (size := _bytes(batch)) > cost.batch_bytes:
            cost.batch_bytes, cost.images = size, tuple(batch.images.shape)
        count, _, height, width = batch.images.shape
        self._pixels[batch.task] = count * height * width
        if not cost.saved_bytes and self._meter is None:  # once: it takes time
            self._meter = SavedBytes()

    def _enter(self, phase: Phase) -> None:
        """Stops the clock of the phase that ends here, and starts that of the next."""
        if phase == "forward" and self._phase in ("forward", "backward"):
            return  # the encoder within the model, or a part of the forward pass that is computed again
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)  # else work that is only queued would count for a later phase
        now = time.perf_counter()
        if self._phase in ("forward", "backward"):
            self._shared[self._phase] += now - self._since
        else:
            self._times[self._phase, "" if self._phase == "step" else self._task] += now - self._since
        if self._meter is not None and phase == "forward":
            self._meter.__enter__()
        elif self._meter is not None and self._phase == "forward":
            self._meter.__exit__()
        self._phase, self._since = phase, now


def _bytes(batch: TaskBatch) -> int:
    def of(targets: BatchTargets) -> int:
        if isinstance(targets, Tensor):
            return targets.nbytes
        return sum(boxes.boxes.nbytes + boxes.labels.nbytes for boxes in targets)

    return batch.images.nbytes + of(batch.targets)
