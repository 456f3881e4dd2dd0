"""``umedpt lr-find``: which learning rate to use, by a sweep over real rounds of a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table

from umedpt_lightning.cli.training import load_weights, run_trial
from umedpt_lightning.drawing.figures import (
    COLOURS,
    PALE,
    add_legend,
    as_picture,
    house_style,
    limits,
    line_style,
    new_axes,
    set_log_axis,
)
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.io.atomic import write_csv, write_json
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.lr_finder import RateCurve, Suggestion, diverged_at, smooth, suggest, sweep

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt lr-find``."""
    run_trial(command.replace("-", "_"), arguments, SweepTrainer)


class SweepTrainer(pl.Trainer):
    """A trainer that looks for the learning rate."""

    def lr_find(
        self,
        model: MultiTaskModule,
        datamodule: pl.LightningDataModule,
        min_lr: float = 1e-6,
        max_lr: float = 1.0,
        rounds: int = 100,
        out: Path = Path("lr-find"),
        ckpt_path: Path | None = None,
    ) -> None:
        """Raises the learning rate over some rounds of training, and says which is best.

        Args:
            model: The module.
            datamodule: The data.
            min_lr: The learning rate of the first round.
            max_lr: The learning rate of the last round.
            rounds: Rounds of the sweep, which ends before when the loss diverges.
            out: Folder of the picture and of the curve as CSV and JSON.
            ckpt_path: A checkpoint whose weights to begin with.
        """
        load_weights(model, ckpt_path)
        curve = sweep(self, model, datamodule, min_lr, max_lr, rounds)
        if self.is_global_zero:
            found = suggest(curve)
            _write(curve, found, out)
            show(curve, found, out)


def show(curve: RateCurve, found: Suggestion, out: Path) -> None:
    """Prints how the tasks did in a sweep, and the option to use."""
    table = Table("task", title=f"learning rates of {len(curve.rates)} rounds", title_justify="left")
    for heading in ("loss at first", "lowest", "at rate", "above the first from"):
        table.add_column(heading, justify="right")
    averages = {name: smooth(losses, curve.decay) for name, losses in curve.tasks.items()}
    for name, losses in averages.items():
        known = [(loss, rate) for loss, rate in zip(losses, curve.rates, strict=True) if math.isfinite(loss)]
        if not known:
            table.add_row(name, *["none"] * 4)
            continue
        lowest, rate = min(known)
        worse = diverged_at(curve, name)
        cells = (f"{known[0][0]:.3f}", f"{lowest:.3f}", f"{rate:.1e}", f"{worse:.1e}" if worse else "never")
        table.add_row(name, *cells)
    Console().print(table)
    if curve.end:
        print(f"ended after {len(curve.rates)} of {curve.rounds} rounds: {curve.end}")
    if found.message:
        print(found.message)
    print(f"picture and curve: {out}")
    if found.steepest is not None and found.tenth is not None:
        print(f"steepest descent: --model.optimization.learning_rate {found.steepest:.2g}")
        print(f"a tenth of the rate with the lowest loss: {found.tenth:.2g}; the smaller of both is the careful choice")


def _write(curve: RateCurve, found: Suggestion, out: Path) -> None:
    """``curve.csv``, ``lr-find.json`` and ``lr-find.png``."""
    smoothed = smooth(curve.losses, curve.decay)
    columns = [curve.rates, curve.losses, smoothed, *curve.tasks.values()]
    rows = [["" if math.isnan(value) else value for value in row] for row in zip(*columns, strict=True)]
    write_csv(out / "curve.csv", ["learning_rate", "loss", "smoothed", *curve.tasks], rows)
    write_json(out / "lr-find.json", {"suggestion": asdict(found), "curve": asdict(curve)})
    save(as_picture(draw(curve, found)), out / "lr-find.png")


@house_style()
def draw(curve: RateCurve, found: Suggestion) -> Figure:
    """The losses over the learning rates: all, smoothed, of each task, and what is suggested."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, axes = new_axes(8, 4.5)
    smoothed = smooth(curve.losses, curve.decay)
    averages = {name: smooth(losses, curve.decay) for name, losses in curve.tasks.items()}
    marker = "o" if len(curve.rates) < 3 else ""  # too few for a line

    def plot(name: str, losses: Sequence[float], **style: Any) -> None:
        entries.append((axes.plot(curve.rates, losses, **style | {"marker": marker})[0], name))

    entries: list[tuple[Artist, str]] = []
    plot("all tasks, smoothed", smoothed, color="black", linewidth=3, zorder=3)
    plot("all tasks", curve.losses, color=PALE, linewidth=0.8)
    for index, (name, losses) in enumerate(averages.items()):
        plot(name, losses, **line_style(index))
    if found.steepest is not None and found.tenth is not None:
        for rate, colour, dashes, name in (
            (found.steepest, COLOURS[2], "--", "steepest descent"),
            (found.tenth, COLOURS[1], ":", "a tenth of the rate with the lowest loss"),
        ):
            line = axes.axvline(rate, color=colour, linestyle=dashes, linewidth=2)
            entries.append((line, f"{name}: {rate:.2g}"))
    first = [losses[0] for losses in [smoothed, *averages.values()] if math.isfinite(losses[0])]
    lowest = min(
        (loss for losses in [curve.losses, *averages.values()] for loss in losses if math.isfinite(loss)), default=0.0
    )
    axes.set_ylim(limits(lowest, max(1.4 * max(first, default=1.0), lowest)))  # what diverges is cut off
    rates = [*curve.rates, *(rate for rate in (found.steepest, found.tenth) if rate is not None)]
    set_log_axis(axes, min(rates), max(rates))
    decades = math.log10(max(rates) / min(rates))
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > 2 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    end = f", ended: {curve.end}" if curve.end else ""
    axes.set(xlabel="learning rate", ylabel="loss", title=f"{len(curve.rates)} of {curve.rounds} rounds{end}")
    add_legend(figure, entries)
    return figure
