"""Every command, option and YAML block of the page on training is understood, and those of a run are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from umedpt_lightning.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
TEXT = PAGE.read_text(encoding="utf-8").replace("pneumonia", "sizes")  # a task of the project
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(line, comments=True)
    for line in "".join(re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)).splitlines()
]
OPTIONS = re.findall(r"^\| `(--[^`]+)` \|", TEXT, re.MULTILINE)
QUICK = ["--data.num_workers", "0", "--data.steps_per_epoch", "1", "--trainer.max_epochs", "1"]


def test_commands_run_one_after_the_other(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((project / "config.yaml").read_text())
    del content["root"]
    content["data"]["tasks"] = {name: content["data"]["tasks"][name] for name in ("sizes", "squares")}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "data").symlink_to(project)
    for number, command in enumerate(COMMANDS, start=1):
        assert command[:2] == ["umedpt", "fit"]
        main([*command[1:], *QUICK[:-1], str(number)])
    run = tmp_path / "runs" / "first"
    (promised,) = re.findall(r"holds all of a run: (.*)\.$", TEXT, re.MULTILINE)
    for name in re.findall(r"`([\w./]+)`", promised):
        assert (run / name).exists(), name
    assert len(list(run.glob("config_?.yaml"))) == 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(yaml.safe_load(block).keys()))
def test_blocks_are_understood(block: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "block.yaml").write_text(block)
    files = ["--config", str(project / "config.yaml"), "--config", str(tmp_path / "block.yaml")]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *files, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["tasks"].keys() >= {"sizes"}


def test_the_blocks_for_data_model_and_callbacks_train(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["--config", str(project / "config.yaml")]
    for number, block in enumerate(block for block in BLOCKS if "Wandb" not in block):
        (tmp_path / f"{number}.yaml").write_text(block)
        files += ["--config", str(tmp_path / f"{number}.yaml")]
    options = [word for option in OPTIONS for word in shlex.split(option)]
    main(["fit", *files, *options, *QUICK, "--run", str(tmp_path / "run")])
    kept = {file.name for file in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"best.ckpt", "best_sizes.ckpt", "last.ckpt"} <= kept
    assert (tmp_path / "run" / "pictures" / "schedule.png").is_file()


def test_the_logger_block_is_a_valid_config(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb.yaml").write_text(BLOCKS[-1])
    arguments = ["--config", str(project / "config.yaml"), "--config", str(tmp_path / "wandb.yaml"), *QUICK]
    wandb = pytest.importorskip("wandb")
    try:
        main(["fit", *arguments, "--run", str(tmp_path / "run")])
    finally:
        wandb.finish()  # else the next logger in this process would go on with this run
    assert (tmp_path / "run" / "metrics.csv").is_file()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1, "W&B's files are in the run's folder"
    logged = files[0].read_bytes()
    for text in (b"val/score", b"pictures/val/boxes", b"class_path", b"ManifestNumbers"):
        assert text in logged, text
