"""A run that goes on in a folder of another name keeps its best score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from umedpt_lightning.callbacks.best_checkpoint import BestCheckpoint


def state_of(folder: Path) -> dict[str, Any]:
    file, score = str(folder / "best.ckpt"), torch.tensor(0.9)
    return BestCheckpoint(folder, monitor="val/score", mode="max").state_dict() | {
        "best_model_path": file,
        "best_model_score": score,
        "best_k_models": {file: score},
        "kth_best_model_path": file,
        "kth_value": score,
    }


def test_a_moved_folder_is_known_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    (new / "best.ckpt").touch()
    checkpoint = BestCheckpoint(new, monitor="val/score", mode="max")
    checkpoint.load_state_dict(state_of(old))
    assert checkpoint.best_model_score == 0.9
    assert set(checkpoint.best_k_models) == {checkpoint.best_model_path} == {str(new / "best.ckpt")}
    assert checkpoint.kth_best_model_path == checkpoint.best_model_path


def test_another_run_starts_without_a_best_score(tmp_path: Path) -> None:
    checkpoint = BestCheckpoint(tmp_path / "new", monitor="val/score", mode="max")
    with pytest.warns(UserWarning, match="dirpath has changed"):
        checkpoint.load_state_dict(state_of(tmp_path / "old"))
    assert checkpoint.best_model_score is None
    assert not checkpoint.best_k_models
