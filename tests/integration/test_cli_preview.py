"""`umedpt data preview`, and presets of augmentation in configs, as users call them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.cli.data_preview import _rows
from umedpt_lightning.cli.data_tasks import build, read_config
from umedpt_lightning.data.datamodule import MultiTaskDataModule

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASKS = ("sizes", "places", "position", "squares", "boxes")
PRESETS = dict(zip(TASKS, ("xray", "mri", "fluorescence", "ct", "histology"), strict=True))


def preview(config: Any, folder: Path, *arguments: str) -> list[str]:
    """Writes the config and the pictures into `folder`; the tasks that have one."""
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump(config))
    main(["data", "preview", "--config", str(file), "--out", str(folder / "out"), *arguments])
    return sorted(picture.stem for picture in (folder / "out").glob("*.png"))


@pytest.fixture
def with_presets(config: dict[str, Any]) -> dict[str, Any]:
    for task, preset in PRESETS.items():
        config["data"]["tasks"][task]["augment"] = preset
    return config


def test_every_task_has_a_picture(
    with_presets: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preview(with_presets, tmp_path, "--samples", "3") == sorted(TASKS)
    printed = capsys.readouterr()
    assert printed.out.split() == [str(tmp_path / "out" / f"{task}.png") for task in sorted(TASKS)]
    assert printed.err == ""
    for task in TASKS:
        width, height = Image.open(tmp_path / "out" / f"{task}.png").size
        assert width > 5 * 280
        assert height > 3 * 280


def test_the_same_samples_are_drawn_each_time_and_the_seed_changes_them(
    with_presets: dict[str, Any], tmp_path: Path
) -> None:
    def picture(*arguments: str) -> bytes:
        preview(with_presets, tmp_path, "--task", "squares", *arguments)
        return (tmp_path / "out" / "squares.png").read_bytes()

    first = picture()
    assert picture() == first
    assert picture("--seed", "0") == first
    assert picture("--seed", "1") != first
    with_presets["data"]["seed"] = 1
    assert picture() == picture("--seed", "1") != first
    assert picture("--samples", "2") != picture()


def test_what_is_drawn_is_what_training_sees(with_presets: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(with_presets))
    tasks, problems = build(read_config([file], None))
    assert problems == []
    task = tasks["squares"]
    rows = _rows("squares", task, task.train, 12, seed=7)
    data = MultiTaskDataModule({"squares": task}, num_workers=0, seed=7)
    seen: list[dict[str, bytes]] = [{}, {}]  # of each pass, by file
    for number, batch_round in enumerate(data.train_dataloader()):
        for batch in batch_round:
            for image, mask, name in zip(batch.images, batch.targets, batch.names, strict=True):
                seen[number // 3][name] = image.numpy().tobytes() + mask.numpy().tobytes()
        if number == 2:
            break
    assert len(rows) == len(seen[0]) == 12
    for row in rows:
        drawn = row.versions["pass 0"]
        assert np.moveaxis(drawn.image, -1, 0).tobytes() + drawn.target.tobytes() == seen[0][row.name]


def test_without_augmentation_there_is_one_version(config: dict[str, Any], tmp_path: Path) -> None:
    config["data"]["tasks"]["sizes"]["size"] = 48
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(config))
    task = build(read_config([file], None))[0]["sizes"]
    rows = _rows("sizes", task, task.train, 2, seed=0)
    assert [[*row.versions] for row in rows] == [["resized"], ["resized"]]
    assert rows[0].versions["resized"].image.shape[:2] == (48, 48)
    assert rows[0].stored.image.shape[:2] == (32, 32)


def test_samples_that_cannot_be_read_are_drawn_as_a_message_and_counted(
    with_presets: dict[str, Any], project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    for name in ("3.png", "7.png"):
        (copy / "train" / "images" / name).write_bytes(b"no picture")
    del with_presets["root"]
    with pytest.raises(SystemExit, match=r"error: 4 of 24 samples could not be drawn") as exit_:
        preview(with_presets, tmp_path, "--root", str(copy), "--task", "squares", "boxes", "--samples", "12")
    assert exit_.value.code != 0
    printed = capsys.readouterr()
    assert re.search(r"Task 'squares'.*train.images.3\.png: not an image", printed.err)
    assert len(printed.out.split()) == 2


def test_augmentations_that_do_not_work_are_told_with_task_and_file(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["data"]["tasks"]["sizes"]["augment"] = {"stain": {"class_path": "albumentations.HEStain"}}
    config["data"]["tasks"]["sizes"]["augment"]["stain"]["init_args"] = {"p": 1.0}
    with pytest.raises(SystemExit, match="2 of 2 samples"):
        preview(config, tmp_path, "--task", "sizes", "--samples", "2")
    assert re.search(r"Task 'sizes': .*0\.png: the augmentations \['stain'\] do not work", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--task", "squars"], r"--task squars: there is no such task. .*squares"),
        (lambda c: c["data"].update(seed="x"), [], r"data\.seed must be a whole number.*'x'"),
        (lambda c: c["data"]["tasks"]["boxes"].update(augment="mir"), ["--samples", "1"], "1 of 5 tasks"),
        (lambda c: c["data"]["tasks"]["boxes"]["train"].update(class_path="No"), ["--samples", "1"], "1 of 5 tasks"),
    ],
)
def test_what_is_wrong_with_config_or_command_is_told(
    config: dict[str, Any], tmp_path: Path, change: Any, arguments: list[str], message: str
) -> None:
    if change:
        change(config)
    with pytest.raises(SystemExit, match=message):
        preview(config, tmp_path, *arguments)


def test_many_faults_of_a_table_are_told_in_part(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("position", "sizes"):
        options = config["data"]["tasks"][task]["train"]["init_args"] | {"split": None}
        config["data"]["tasks"][task]["train"]["init_args"] = options
    config["data"]["tasks"]["position"]["train"]["init_args"]["quantities"] = {"label": ""}  # 24 cells
    with pytest.raises(SystemExit, match="1 of 2 tasks could not be set up"):
        preview(config, tmp_path, "--task", "sizes", "position", "--samples", "1")
    told = capsys.readouterr().err
    assert told.count("label is") == 20
    assert "… and 4 more; `umedpt data check` names all" in told


@pytest.mark.parametrize("arguments", [["--samples", "0"], ["--seed", "-1"], []])
def test_a_command_that_cannot_be_understood_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    config = ["--config", "c.yaml"] if arguments else []
    with pytest.raises(SystemExit) as exit_:
        main(["data", "preview", *config, *arguments])
    assert exit_.value.code == 2


def test_a_task_without_training_data_is_passed_over(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del config["data"]["tasks"]["sizes"]["train"]
    assert preview(config, tmp_path, "--task", "sizes", "--samples", "1") == []
    assert "sizes: no train part" in capsys.readouterr().out


def test_fit_and_check_take_presets_by_name_and_by_file(
    with_presets: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("flip: {class_path: albumentations.HorizontalFlip, init_args: {p: 0.25}}")
    with_presets["data"]["tasks"]["sizes"]["augment"] = str(tmp_path / "mine.yaml")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(with_presets))
    main(["data", "check", "--config", str(file), "--workers", "1"])
    run = tmp_path / "run"
    main(["fit", "--config", str(file), "--run", str(run), "--trainer.max_epochs", "1", "--data.steps_per_epoch", "1"])
    kept = yaml.safe_load((run / "config.yaml").read_text())["data"]["tasks"]
    assert kept["sizes"]["augment"]["flip"]["init_args"]["p"] == 0.25
    assert kept["places"]["augment"]["warp"]["class_path"].endswith("ThinPlateSpline")
    main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])


@pytest.mark.parametrize("command", [["fit", "--run", "RUN"], ["data", "check", "--workers", "1"]])
def test_an_unknown_preset_is_answered_by_those_there_are(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    config["data"]["tasks"]["boxes"]["augment"] = "mir"
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as exit_:
        main([*(str(tmp_path / "run") if word == "RUN" else word for word in command), "--config", str(file)])
    said = " ".join(f"{exit_.value.code} {capsys.readouterr().out}".split())
    assert "boxes" in said
    assert "'mir'" in said
    assert "histology" in said


def test_real_data(tmp_path: Path, shared_data: Path) -> None:
    config = yaml.safe_load((CONFIGS / "xray_ct_blood.yaml").read_text())
    for task, preset in {"pneumonia": "xray", "lung_nodule": "ct", "blood_cells": "histology"}.items():
        config["data"]["tasks"][task]["augment"] = preset
    assert preview(config, tmp_path, "--root", str(shared_data), "--samples", "2") == [
        "blood_cells",
        "lung_nodule",
        "pneumonia",
    ]


def test_demo_data(tmp_path: Path) -> None:
    root = Path("~/.cache/umedpt/demo").expanduser()
    if not (root / "RECIPE").is_file():
        pytest.skip(f"no demo data at {root}; run `umedpt demo-data`")
    config = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    # labels may be named otherwise in a folder that an older recipe made
    tasks = config["data"]["tasks"]
    kept = {
        name: tasks[name] | {"augment": preset}
        for name, preset in {"brain_tissue": "mri", "nuclei": "fluorescence"}.items()
    }
    config["data"]["tasks"] = kept
    assert preview(config, tmp_path, "--root", str(root), "--samples", "2") == ["brain_tissue", "nuclei"]
