"""``umedpt affinity``: which task helps which, by steps on one task alone, and a mix of tasks that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from umedpt_lightning.callbacks.task_map import draw_matrix
from umedpt_lightning.cli.options import clear_errors
from umedpt_lightning.cli.training import TrialCLI, be_quiet, load_weights
from umedpt_lightning.drawing.figures import as_picture, shorten
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.io.atomic import write_csv, write_text
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.affinity import Affinity, Mix, measure_affinity, propose
from umedpt_lightning.training.checkpoints import CheckpointError

#: What `umedpt fit` takes of the config.
_OF_FIT = ("seed_everything", "root", "trainer", "model", "data", "checkpoint", "last", "pictures", "map")


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt affinity``."""
    be_quiet()
    with clear_errors(also=(CheckpointError,)):
        AffinityCLI(command, list(arguments), AffinityTrainer)


class AffinityCLI(TrialCLI):
    """Keeps the config as it was given, of which the proposed mix is made."""

    def before_instantiate_classes(self) -> None:
        """As above."""
        whole = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        AffinityTrainer.config = {key: whole[key] for key in _OF_FIT if key in whole}
        super().before_instantiate_classes()


class AffinityTrainer(pl.Trainer):
    """A trainer that measures which task helps which.

    Attributes:
        config: That of the run, for the mix.
    """

    config: ClassVar[dict[str, Any]] = {}

    def affinity(
        self,
        model: MultiTaskModule,
        datamodule: pl.LightningDataModule,
        rounds: int = 100,
        every: int = 10,
        step: float = 0.01,
        out: Path = Path("affinity"),
        ckpt_path: Path | None = None,
    ) -> None:
        """Trains for some rounds, measures which task helps which, and proposes a mix.

        Args:
            model: The module.
            datamodule: The data.
            rounds: Rounds of training, in the second half of which is measured.
            every: Rounds from one measurement to the next.
            step: Share of its own loss that a step takes from the task on which it has most effect.
            out: Folder of picture, table and ``mix.yaml``, a config for `umedpt fit`.
            ckpt_path: A checkpoint whose weights to begin with.
        """
        load_weights(model, ckpt_path)
        affinity = measure_affinity(self, model, datamodule, rounds, every, step)
        mix = propose(affinity)
        _write(affinity, mix, out)
        show(affinity, mix, out)


def mixed(config: dict[str, Any], mix: Mix) -> dict[str, Any]:
    """The config with the weights of a mix, and without the tasks that it leaves out."""
    data = config["data"] | {"tasks": {k: v for k, v in config["data"]["tasks"].items() if k not in mix.left_out}}
    heads = {k: v for k, v in (config["model"].get("tasks") or {}).items() if k not in mix.left_out}
    return config | {"data": data, "model": config["model"] | {"tasks": heads or None, "weights": mix.weights}}


def show(affinity: Affinity, mix: Mix, out: Path) -> None:
    """Prints what each task gives and gets, best first, and what to do.

    Args:
        affinity: What was measured.
        mix: What is proposed.
        out: Where the files are.
    """
    table = Table("task", title=f"{len(affinity.falls)} measurements", title_justify="left")
    for heading in ("gives", "gets", "helps most", "weight"):
        table.add_column(heading, justify="right")
    effects = affinity.effects - np.diag(np.full(len(affinity.tasks), np.inf))
    for task, given in sorted(affinity.given.items(), key=lambda item: -item[1]):
        best = affinity.tasks[int(np.nanargmax(effects[affinity.tasks.index(task)]))]
        weight = "leave out" if task in mix.left_out else f"{mix.weights[task]:.2f}"
        table.add_row(task, f"{given:+.2f}", f"{affinity.got[task]:+.2f}", best, weight)
    Console().print(table)
    print("gives: what others gain by steps on this task, over what they gain by steps on themselves; gets: likewise")
    print(f"picture, table and mix: {out}; umedpt fit --config {out / 'mix.yaml'}")


def _write(affinity: Affinity, mix: Mix, out: Path) -> None:
    """``affinity.csv``, ``affinity.png`` and ``mix.yaml``."""
    effects = affinity.effects
    rows = ([task, *row] for task, row in zip(affinity.tasks, effects.tolist(), strict=True))
    write_csv(out / "affinity.csv", ["step_on", *affinity.tasks], rows)
    names = [shorten(task, 30) for task in affinity.tasks]
    below = "gain by a step on the task beside it, over that by a step on itself"
    figure = draw_matrix(effects.clip(-1, 1), names, names, "which task helps which", below)
    save(as_picture(figure), out / "affinity.png")
    if AffinityTrainer.config:
        write_text(out / "mix.yaml", yaml.safe_dump(mixed(AffinityTrainer.config, mix), sort_keys=False))
