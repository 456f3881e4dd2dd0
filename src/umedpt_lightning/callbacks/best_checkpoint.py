"""The best checkpoint of a run, and that of every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from umedpt_lightning.model import MultiTaskModel

#: Options of a run's best checkpoint.
BEST: dict[str, Any] = {
    "monitor": "val/score",
    "mode": "max",
    "filename": "best",
    "save_last": False,
    "enable_version_counter": False,
}


class BestCheckpoint(ModelCheckpoint):
    """As Lightning's, but a run whose folder was moved, or is spelt otherwise, still knows its best score.

    Lightning forgets it then, and the first validation after the resumption would overwrite a better checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state; files that lie in this run's folder by the same names are looked for there."""
        super().load_state_dict(self._moved(state_dict))

    def _moved(self, state: dict[str, Any]) -> dict[str, Any]:
        kept = [state["best_model_path"], *state["best_k_models"]]
        here = {path: str(Path(self.dirpath or "") / Path(path).name) for path in kept if path}
        if not here or not all(Path(path).is_file() for path in here.values()):
            return state  # of another run
        return state | {
            "dirpath": self.dirpath,
            "best_model_path": here.get(state["best_model_path"], ""),
            "kth_best_model_path": here.get(state["kth_best_model_path"], ""),
            "best_k_models": {here[path]: score for path, score in state["best_k_models"].items()},
        }


def best_per_task(model: MultiTaskModel, tasks: list[str]) -> list[ModelCheckpoint]:
    """Callbacks that keep ``best_<task>.ckpt`` of tasks with a val part, by the task's main metric there.

    They hold all that a run goes on from, as others do: Lightning puts averaged weights into no other checkpoint.
    """
    return [
        BestCheckpoint(
            **{**BEST, "monitor": f"val/{task}/{model.task(task).main_metric}", "filename": f"best_{task}"},
        )
        for task in tasks
    ]
