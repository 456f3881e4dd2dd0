"""Every example config runs, with the command that its first lines tell."""

import json
import math
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from umedpt_lightning.cli import main
from umedpt_lightning.cli.task_files import gather, load, root_of

PROJECT = Path(__file__).parents[2]
OTHERS = ("transfer", "sweeps")
TOGETHER = PROJECT / "configs" / "results" / "together"
FILES = (file for file in (PROJECT / "configs").rglob("*.yaml") if TOGETHER not in file.parents)
ALL = sorted(file for file in FILES if file.parent.name not in OTHERS)
#: Of `TOGETHER`, what is put behind what all arms have in common.
ARMS = sorted(file.stem for file in TOGETHER.glob("*.yaml") if file.stem not in ("common", "together"))
#: The set that a config's ``${root}`` holds by default.
ROOTS = {"~/.cache/umedpt/demo": "demo", "data": "shared"}


def _commands() -> dict[str, tuple[Path, ...]]:
    """The configs of every `umedpt fit` in the comments of a config, by their names."""
    found = {}
    for file in ALL:
        comments = "".join(re.findall(r"^#(.*\n)", file.read_text(), re.MULTILINE)).replace("\\\n", " ")
        for command in re.findall(r"umedpt fit ([^\n]*)", comments):
            words = shlex.split(command, posix=False)
            configs = [words[i + 1].rstrip(".,") for i, word in enumerate(words) if word == "--config"]
            if "$" not in command and configs:
                found["+".join(name.removeprefix("configs/") for name in configs)] = tuple(
                    PROJECT / name for name in configs
                )
    return found


COMMANDS = _commands()


def test_every_config_is_in_a_command_or_named_by_another() -> None:
    used = {file for files in COMMANDS.values() for file in files}
    named = {PROJECT / file.parent / entry for file in used for entry in _entries(load(file)) if "$" not in entry}
    assert used <= set(ALL)
    assert set(ALL) - used - named == set()


def _entries(content: dict[str, Any]) -> list[str]:
    tasks = content.get("data", {}).get("tasks", {})
    return [entry for entry in tasks if isinstance(entry, str)] if isinstance(tasks, list) else []


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


def _small(whole: dict[str, Any], left_out: list[str]) -> dict[str, Any]:
    """What makes a round of two small images of each task of it, on a CPU, without a download."""
    tasks = [name for name in whole["data"]["tasks"] if name not in left_out]
    trainer = {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": len(tasks), "log_every_n_steps": 1}
    trainer |= {"val_check_interval": 1, "precision": "32-true", "enable_progress_bar": False}
    heads = json.loads(json.dumps(whole.get("model", {}).get("tasks", {})))
    for head in heads.values():
        if "teacher" in head.get("init_args", {}):
            head["init_args"]["teacher"]["init_args"]["weights"] = None
    options = {name: {"batch_size": 2} for name in tasks}
    for name, option in options.items():  # those of the reference; Swin takes a second for two of them
        option |= {"size": 64} if whole["data"]["tasks"][name].get("size") == 224 else {}
    small: dict[str, Any] = {"trainer": trainer, "data": {"num_workers": 0, "steps_per_epoch": 1, "tasks": options}}
    small |= {"pictures": {"samples": 1}, "map": {"every": 0}}  # drawing takes longer than the round
    return small | ({"model": {"tasks": heads}} if heads else {})


#: Swin-T on twenty-four tasks, and what pages of results were made with.
LONG = {name for name in COMMANDS if "swin" in name or "results/" in name}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in COMMANDS])
def test_a_config_trains_all_its_tasks(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    contents = {file: load(file) for file in COMMANDS[name]}
    both = any(file.parent.name != "configs" for file in contents)
    root = _root(root_of(contents, None), both, tmp_path, request)
    left_out = [task for content in contents.values() for task in content.get("leave_out", [])]
    whole = gather(contents, str(root))
    small = _small(whole, left_out)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    configs = [word for file in (*contents, tmp_path / "small.yaml") for word in ("--config", str(file))]
    options = ["--root", str(root), "--run", str(tmp_path / "run"), "--model.encoder.init_args.weights", "null"]
    main(["fit", *configs, *options])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    assert report["round"] == 1
    tasks = [task for task in small["data"]["tasks"] if "val" in whole["data"]["tasks"][task]]
    losses = [report["metrics"][f"{task}/loss"] for task in tasks]
    assert all(map(math.isfinite, losses))
    assert statistics.median(losses) < 3, "about 1 for an uninformed head, but for single numbers far out"
    for task in tasks:
        assert (tmp_path / "run" / "pictures" / f"val_{task}.png").is_file()


@pytest.mark.slow
def test_a_vision_transformer_from_random_weights_beats_the_baselines_of_the_demo(
    tmp_path: Path, demo_data: Path
) -> None:
    configs = [word for name in ("demo", "demo_vit") for word in ("--config", str(PROJECT / f"configs/{name}.yaml"))]
    options = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false"]
    main(["fit", *configs, "--root", str(demo_data), "--run", str(tmp_path / "run"), *options])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    main_metrics = {"brain_tissue": "dice", "slice_plane": "auroc", "brain_structures": "auroc"}
    main_metrics |= {"axial_position": "r2", "nuclei": "map50"}
    for task, metric in main_metrics.items():
        assert report["metrics"][f"{task}/{metric}"] > report["baseline"][f"{task}/{metric}"] + 0.3, task


@pytest.mark.slow
@pytest.mark.parametrize("arm", [None, *ARMS])
def test_the_arms_of_together_or_alone_train_all_tasks(arm: str | None, tmp_path: Path, shared_data: Path) -> None:
    files = [TOGETHER / f"{name}.yaml" for name in ("common", "together", arm) if name]
    options = ["--root", str(shared_data), "--run", str(tmp_path), "--model.encoder.init_args.weights", "null"]
    options += ["--data.steps_per_epoch", "1", "--trainer.limit_val_batches", "7", "--trainer.log_every_n_steps", "1"]
    main(["fit", *(f"--config={file}" for file in files), *options])
    metrics = json.loads((tmp_path / "metrics.json").read_text())["val"]["metrics"]
    for file in (TOGETHER / "tasks").glob("*.yaml"):
        assert metrics[f"{file.stem}/loss"] < 3, "about 1 for an uninformed head"
