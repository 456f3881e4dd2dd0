"""The learning-rate range test over all tasks.

L. N. Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3: the rate grows from round to
round, and the loss tells from where on it is of use and where it is too much. Lightning's own does nothing where a
module steps by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.training.module import MultiTaskModule
from umedpt_lightning.training.trial import fit_for
from umedpt_lightning.types import Round

#: Fewest rounds from which a curve can be read.
FEWEST_ROUNDS = 10
_DIVERGED = 4.0  # times the best loss
_FEW = 5  # rounds that say where the loss begins
_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class RateCurve:
    """Losses of a sweep.

    Attributes:
        rounds: How many the sweep was meant to have.
        rates: The learning rate of each round.
        losses: The total loss of each round.
        tasks: The loss of each task in each round; NaN where it did not come up.
        end: Why the sweep ended before its last round; empty if it did not.
    """

    rounds: int
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tasks: dict[str, list[float]] = field(default_factory=dict)
    end: str = ""

    @property
    def decay(self) -> float:
        """Of the moving average: its window is about a tenth of the sweep."""
        return max(0.0, 1 - 10 / self.rounds)


@dataclass
class Suggestion:
    """What a curve says.

    Attributes:
        steepest: Where the loss falls fastest; None where it does not fall.
        tenth: A tenth of the rate with the lowest loss; None likewise.
        message: What should be known of it; empty if nothing.
    """

    steepest: float | None = None
    tenth: float | None = None
    message: str = ""


class RateSweep(pl.Callback):
    """Raises the learning rate exponentially from round to round, and ends the fit when the loss diverges.

    It diverges where it is not finite, or where its moving average is more than four times its lowest so far.

    Args:
        min_lr: The rate of the first round.
        max_lr: The rate of the last.
        rounds: Number of rounds.

    Attributes:
        curve: The losses so far.
    """

    def __init__(self, min_lr: float, max_lr: float, rounds: int) -> None:
        self.min_lr, self.max_lr, self.rounds = min_lr, max_lr, rounds
        self.curve = RateCurve(rounds)
        self._best = math.inf
        self._told = time.monotonic()

    @property
    def rate(self) -> float:
        """The rate of the round that comes next or is under way."""
        return float(self.min_lr * (self.max_lr / self.min_lr) ** (len(self.curve.rates) / (self.rounds - 1)))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the module from reading the losses away for its log."""
        trainer.log_every_n_steps = self.rounds + 1  # type: ignore[attr-defined]  # set by a connector

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """The step is made with the rate of the sweep, over that of the schedule."""
        peak = max(group["initial_lr"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = self.rate * group["initial_lr"] / peak  # an encoder may be to learn slower

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Round, batch_idx: int
    ) -> None:
        """Takes down the losses, the mean over the ranks."""
        if not isinstance(pl_module, MultiTaskModule):
            raise TypeError(f"The sweep needs a MultiTaskModule, but this is a {type(pl_module).__name__}.")
        found, _ = pl_module.losses.read(pl_module.device)
        total = float(outputs["loss"])
        if not found.keys() >= batch.plan.micro_batches.keys():
            total = math.inf  # what a module leaves out was not finite
        curve = self.curve
        curve.rates.append(self.rate)
        curve.losses.append(total)
        for name in pl_module.model.tasks:
            curve.tasks.setdefault(name, []).append(found.get(name, math.nan))
        self._judge(trainer)

    def _judge(self, trainer: pl.Trainer) -> None:
        curve = self.curve
        rate, loss = curve.rates[-1], curve.losses[-1]
        average = moving_average(curve.losses, curve.decay)[-1]
        if not math.isfinite(loss):
            curve.end = f"the loss is not finite at {rate:.2g}"
        elif average > _DIVERGED * self._best:
            curve.end = f"the loss is more than {_DIVERGED:g} times its lowest at {rate:.2g}"
        self._best = min(self._best, average)
        if curve.end:
            trainer.should_stop = True
        if trainer.is_global_zero and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            print(f"round {len(curve.rates)}/{self.rounds}, learning rate {rate:.2g}, loss {average:.3f}", flush=True)


def sweep(
    trainer: pl.Trainer,
    module: MultiTaskModule,
    data: pl.LightningDataModule,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    rounds: int = 100,
) -> RateCurve:
    """Trains while the learning rate grows; afterwards the module has the weights it came with.

    Args:
        trainer: Has neither loggers nor callbacks.
        module: What is trained, with the optimizer and the clipping that it is configured with.
        data: What it is trained on.
        min_lr: The first rate.
        max_lr: The last rate.
        rounds: Number of rounds.

    Raises:
        ValueError: The rates do not grow, or there are too few rounds.
    """
    if not 0 < min_lr < max_lr:
        raise ValueError(f"--min_lr must be positive and below --max_lr, but they are {min_lr:g} and {max_lr:g}.")
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"--rounds is {rounds}, too few for a curve: give at least {FEWEST_ROUNDS}.")
    before = {name: value.cpu().clone() for name, value in module.state_dict().items()}
    watch = RateSweep(min_lr, max_lr, rounds)
    fit_for(trainer, module, data, rounds, watch)
    module.load_state_dict(before)
    return watch.curve


def moving_average(values: Sequence[float], decay: float) -> list[float]:
    """The exponential moving average without the bias of its start; NaN does not count.

    Kingma & Ba, Adam, ICLR 2015, section 3.
    """
    total = weight = 0.0
    averages = []
    for value in values:
        if not math.isnan(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        averages.append(total / weight if weight else math.nan)
    return averages


def smooth(values: Sequence[float], decay: float) -> list[float]:
    """The moving average of a whole curve, over what comes before and after alike; NaN does not count.

    Of what comes before alone it would be late by as many rounds as it averages over, by which the rate has grown
    severalfold. Losses far above those at the beginning are cut, since one alone would be all there is to be seen.

    Args:
        values: A loss a round.
        decay: Weight of a round relative to that of the one next to it.
    """
    losses: NDArray[np.float64] = np.array(values, np.float64)
    known = np.isfinite(losses)
    if not known.any():
        return [math.nan] * len(losses)
    losses = np.minimum(losses, 2 * np.mean(losses[known][:_FEW]))
    rounds = np.arange(len(losses))
    weights = decay ** np.abs(rounds[:, None] - rounds) * ~np.isnan(losses)
    smoothed: list[float] = (weights @ np.nan_to_num(losses) / weights.sum(1)).tolist()
    return smoothed


def suggest(curve: RateCurve) -> Suggestion:
    """Reads a rate from a curve: where the smoothed loss falls fastest over the logarithm of the rate."""
    if not math.isfinite(curve.losses[0]):
        return Suggestion(
            message="The loss is not finite in the first round already, before any step was made: see whether the data "
            "are (`umedpt data check`), and whether trainer.precision suffices."
        )
    if len(curve.losses) < FEWEST_ROUNDS:
        return Suggestion(
            message=f"The sweep ended after {len(curve.losses)} rounds, too few for a curve: {curve.end}. Start lower, "
            f"with --min_lr {curve.rates[0] / 100:.0e}, or give more --rounds."
        )
    losses = np.array(smooth(curve.losses, curve.decay))
    lowest = int(np.argmin(losses))
    half = max(2, curve.rounds // 10)
    logs = np.log(curve.rates)
    slopes = {  # of straight lines through a fifth of the sweep
        i: float(np.polyfit(logs[i - half : i + half + 1], losses[i - half : i + half + 1], 1)[0])
        for i in range(half, min(lowest + 1, len(losses) - half))
    }
    if not slopes or losses[0] - losses[lowest] <= max(3 * _noise(curve, losses, lowest), 0.01 * losses[0]):
        return Suggestion(
            message=f"The loss does not fall clearly between {curve.rates[0]:.0e} and {curve.rates[-1]:.0e}, so there "
            "is no suggestion. Look at the picture, and give other --min_lr and --max_lr, or more --rounds."
        )
    message = ""
    if lowest >= len(losses) - 2 and not curve.end:
        message = f"The loss still falls at the end: a --max_lr above {curve.rates[-1]:g} would say more."
    return Suggestion(curve.rates[min(slopes, key=slopes.__getitem__)], curve.rates[lowest] / 10, message)


def _noise(curve: RateCurve, losses: NDArray[np.float64], lowest: int) -> float:
    """Standard deviation of the difference of two values of the smoothed curve, one of them at its beginning."""
    # before the lowest: afterwards there are other reasons for jumps; the median is not moved by single ones
    apart = np.median(np.abs(np.array(curve.losses)[: lowest + 1] - losses[: lowest + 1]))
    # weights of d^|k| average as many values as 2(1+d)/(1-d) equal ones would, and half of that at an end
    return float(1.48 * apart * math.sqrt(1.5 * (1 - curve.decay) / (1 + curve.decay)))


def diverged_at(curve: RateCurve, task: str) -> float | None:
    """The rate from which on a task's smoothed loss is above where it began; None if it never is.

    Args:
        curve: A sweep's losses.
        task: The task's name.
    """
    losses = smooth(curve.tasks[task], curve.decay)
    lowest = int(np.nanargmin(losses)) if np.isfinite(losses).any() else 0
    for rate, loss in zip(curve.rates[lowest:], losses[lowest:], strict=True):
        if loss > losses[0] or not math.isfinite(loss):
            return rate
    return None
