"""Every example config runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from umedpt_lightning.cli import main

ALL = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
CONFIGS = [file for file in ALL if file.parent.name != "transfer"]
#: The set that a config's ``${root}`` holds by default.
ROOTS = {"~/.cache/umedpt/demo": "demo", "data": "shared"}


def _small(content: dict[str, Any]) -> dict[str, Any]:
    """The same config with a round of two small images of each task, on a CPU, without a download."""
    tasks = len(content["data"]["tasks"])
    content["trainer"] |= {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": tasks, "log_every_n_steps": 1}
    content["trainer"] |= {"val_check_interval": 1, "precision": "32-true"}
    content["data"] |= {"num_workers": 0, "steps_per_epoch": 1}
    content["model"]["encoder"]["init_args"]["weights"] = None
    for task in content["data"]["tasks"].values():
        task["batch_size"] = 2
        if task.get("size") == 224:  # those of the reference; Swin takes a second for two of them
            task["size"] = 64
    return content


def _root(default: str, both: bool, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder that ``${root}`` stands for; those of the results hold the demo's images beside the sets."""
    if not both:
        return request.getfixturevalue("demo_data" if ROOTS[default] == "demo" else "shared_data")
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "demo").symlink_to(request.getfixturevalue("demo_data"))
    for file in request.getfixturevalue("shared_data").iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_config_trains_all_its_tasks(config: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content = yaml.safe_load(config.read_text())
    root = _root(content["root"], config.parent.name == "results", tmp_path, request)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_small(content)))
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--root", str(root), "--run", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    assert report["round"] == 1
    for task in content["data"]["tasks"]:
        assert report["metrics"][f"{task}/loss"] < 3, "about 1 for an uninformed head"
        assert (tmp_path / "run" / "pictures" / f"val_{task}.png").is_file()
