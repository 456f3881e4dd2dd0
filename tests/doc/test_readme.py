"""What the README says can be run is run."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from umedpt_lightning.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
QUICK = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.max_epochs",
    "1",
    "--data.steps_per_epoch",
    "1",
    "--data.num_workers",
    "0",
]
#: Rounds for commands that only try.
TRIALS = {"profile": "1", "lr-find": "10"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def _commands() -> list[list[str]]:
    lines = "".join(_blocks("bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("umedpt")]


def test_the_first_config_and_its_command_leave_what_is_promised(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared_data)
    (tmp_path / "tasks.yaml").write_text(_blocks("yaml")[0])
    command = _commands()[0]
    assert command[:2] == ["umedpt", "fit"]
    main([*command[1:], *QUICK, "--trainer.limit_val_batches", "10"])
    promised = re.search(r"What comes out: `(.*?)` with (.*?) \(image", TEXT, flags=re.DOTALL)
    assert promised is not None
    for name in re.findall(r"`(.*?)`", promised[2]):
        assert (tmp_path / promised[1] / name).exists(), name


def test_the_python_block_runs(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared_data)
    (block,) = _blocks("python")
    names: dict[str, Any] = {}
    exec(block.replace("steps_per_epoch=20", "steps_per_epoch=2, num_workers=0"), names)
    assert names["probabilities"].shape == (2,)


@pytest.mark.slow
def test_every_command_runs(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umedpt_lightning.data.demo import prepare

    try:
        demo = prepare(tmp_path / "demo")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared_data)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    main(["fit", "--config", "configs/demo.yaml", "--root", str(demo), "--run", "runs/demo", *QUICK])
    for command in _commands()[1:]:
        arguments = command[1:]
        if arguments[0] == "fit" and "--help" not in arguments:
            epochs = "2" if "last" in arguments else "1"
            arguments += [*QUICK, "--trainer.max_epochs", epochs]
        if arguments[0] in TRIALS:
            arguments += [*QUICK, "--rounds", TRIALS[arguments[0]]]
        if "--help" in arguments or "check" in arguments:
            # the check finds the images that PneumoniaMNIST has in two parts
            with pytest.raises(SystemExit, match="1" if "check" in arguments else "0"):
                main(arguments)
        else:
            main(arguments)
    assert (tmp_path / "predictions" / "blood_cells.json").is_file()


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^make ([\w-]+)", "".join(_blocks("bash")), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test\n" in (ROOT / ".ci" / "run").read_text()


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`(configs/[\w.]+)`|\]\((docs/[\w./-]+|notebooks)[#)]", TEXT):
        assert (ROOT / (name[0] or name[1])).exists(), name
