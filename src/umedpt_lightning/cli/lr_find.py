"""``umedpt lr-find``: which learning rate to use, by a sweep over real rounds of a config."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from PIL import Image
from rich.console import Console
from rich.table import Table

from umedpt_lightning.callbacks.chart import Mark, Trace, draw_chart
from umedpt_lightning.cli import trial
from umedpt_lightning.drawing.layout import INK, PALE
from umedpt_lightning.drawing.pictures import colour, save
from umedpt_lightning.io.atomic import write_text
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.lr_finder import RateCurve, Suggestion, diverged_at, smooth, suggest, sweep

_MARK, _TENTH = (120, 220, 130), (255, 196, 0)


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt lr-find``."""
    trial.main(command.replace("-", "_"), arguments, SweepTrainer)


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
        trial.load_weights(model, ckpt_path)
        curve = sweep(self, model, datamodule, min_lr, max_lr, rounds)
        if self.is_global_zero:
            found = suggest(curve)
            _write(curve, found, out)
            show(curve, found, out)


def show(curve: RateCurve, found: Suggestion, out: Path) -> None:
    """Prints how the tasks did, and the option to use.

    Args:
        curve: The sweep's losses.
        found: What they say.
        out: Where the files are.
    """
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
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["learning_rate", "loss", "smoothed", *curve.tasks])
    for i, rate in enumerate(curve.rates):
        losses = [curve.losses[i], smoothed[i], *(losses[i] for losses in curve.tasks.values())]
        rows.writerow([rate, *("" if math.isnan(loss) else loss for loss in losses)])
    write_text(out / "curve.csv", text.getvalue())
    content: dict[str, Any] = {"suggestion": asdict(found), "curve": asdict(curve)}
    write_text(out / "lr-find.json", json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")
    save(draw(curve, found), out / "lr-find.png")


def draw(curve: RateCurve, found: Suggestion) -> Image.Image:
    """The losses over the learning rates: all, smoothed, of each task, and what is suggested."""
    smoothed = smooth(curve.losses, curve.decay)
    averages = {name: smooth(losses, curve.decay) for name, losses in curve.tasks.items()}
    traces = [Trace("all tasks", curve.rates, curve.losses, PALE, 1)]
    traces += [Trace(name, curve.rates, losses, colour(i), 2) for i, (name, losses) in enumerate(averages.items())]
    traces.append(Trace("all tasks, smoothed", curve.rates, smoothed, INK, 4))
    marks = []
    if found.steepest is not None and found.tenth is not None:
        marks = [
            Mark(f"steepest descent: {found.steepest:.2g}", found.steepest, _MARK),
            Mark(f"a tenth of the rate with the lowest loss: {found.tenth:.2g}", found.tenth, _TENTH),
        ]
    first = [losses[0] for losses in [smoothed, *averages.values()] if math.isfinite(losses[0])]
    end = f", ended: {curve.end}" if curve.end else ""
    title = f"{len(curve.rates)} of {curve.rounds} rounds{end}"
    return draw_chart(traces, marks, 1.4 * max(first, default=1.0), title)


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
