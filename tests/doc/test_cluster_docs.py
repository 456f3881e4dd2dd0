"""What the page on clusters says can be run is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from umedpt_lightning.cli import main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


LINES = [
    shlex.split(line, comments=True)
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if "fit" in line
]
#: The options of the table; where a row belongs to DDPStrategy, that is said too.
OPTIONS = re.findall(r"^\| `(--[^`]+)` \|", TEXT, re.MULTILINE)


def understood(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """The whole config that these arguments make."""
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--print_config"])
    config: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_commands_are_understood(line: list[str], project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = line[line.index("fit") :]
    arguments[arguments.index("--config") + 1] = str(project / "config.yaml")
    assert understood(arguments, capsys)["run"] == "runs/first"
    if line[0] == "torchrun":
        options = get_args_parser().parse_args(line[1:])
        assert (options.module, options.training_script) == (True, "umedpt_lightning")
        assert "--trainer.num_nodes" in options.training_script_args


def test_the_page_has_a_command_for_one_machine_for_torchrun_and_for_slurm() -> None:
    assert {line[0] for line in LINES} == {"umedpt", "torchrun", "srun"}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_understood(options: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategy = ["--trainer.strategy", "DDPStrategy"] if "--trainer.strategy." in options else []
    understood(["fit", "--config", str(project / "config.yaml"), *strategy, *shlex.split(options)], capsys)


def test_an_option_that_is_not_there_would_be_found(project: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", str(project / "config.yaml"), "--data.distribute", "nothing", "--print_config"])


def test_the_yaml_block_is_understood(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("yaml")
    (tmp_path / "cluster.yaml").write_text(block)
    files = ["--config", str(project / "config.yaml"), "--config", str(tmp_path / "cluster.yaml")]
    assert understood(["fit", *files], capsys)["data"]["distribute"] == "tasks"  # type: ignore[index]


def test_the_script_for_slurm_starts_as_many_processes_as_it_says() -> None:
    (script,) = (block for block in blocks("bash") if "#SBATCH" in block)
    found = {
        name: re.search(rf"{name}[= ](\d+)", script)
        for name in ("--nodes", "--ntasks-per-node", "devices", "num_nodes")
    }
    numbers = {name: match[1] for name, match in found.items() if match}
    assert numbers["--nodes"] == numbers["num_nodes"]
    assert numbers["--ntasks-per-node"] == numbers["devices"]
