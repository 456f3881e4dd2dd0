"""Transfer's cells on several processes: the same cells, the same report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli_transfer import _config, _of_two_centres

from umedpt_lightning.cli import main
from umedpt_lightning.cli.launching import Job, launch
from umedpt_lightning.transfer import evaluation
from umedpt_lightning.transfer.sweep import Sweep

REPLICATES = evaluation.REPLICATES


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 5)


def run(folder: Path, name: str, content: dict[str, Any], *arguments: str) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    main(["transfer", "--config", str(folder / "config.yaml"), "--run", str(folder / name), *arguments])
    return folder / name


def tables(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.csv"))}


@pytest.mark.parametrize("more", [(), pytest.param(("--centres", "^([A-Z])-"), marks=pytest.mark.slow)])
def test_jobs_measure_the_same_cells_once_and_the_report_is_the_same(
    more: tuple[str, ...], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _of_two_centres(project)
    alone = run(tmp_path, "alone", content, *more)
    measured, measure = [], Sweep._measure

    def counted(sweep: Sweep, cell: Any, subset: Any) -> Any:
        measured.append(cell)
        return measure(sweep, cell, subset)

    monkeypatch.setattr(Sweep, "_measure", counted)
    together = run(tmp_path, "together", content, *more, "--launcher", "debug", "--jobs", "3")
    assert tables(together) == tables(alone)
    assert len(measured) == len([*alone.rglob("cells/**/*.json")]) == len([*together.rglob("cells/**/*.json")])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--job_options", "{wrong: 1}"), "submitit cannot start jobs so"),
        (("--launcher", "slurm"), "submitit cannot start jobs so"),
        (("--jobs", "0"), "--jobs is 0"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: tuple[str, ...], match: str, project: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=match):
        run(tmp_path, "run", _config(project, "sizes"), "--launcher", "local", *arguments)


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"umedpt-lightning\[launch\]"):
        launch(Job([], 1), "local", {}, tmp_path)


def test_a_job_that_fails_is_told_with_its_output(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("the disk is gone")

    monkeypatch.setattr(Sweep, "_measure", fail)
    with pytest.raises(SystemExit, match=r"(?s)2 of 2 jobs ended with an error.*jobs/.*the disk is gone"):
        run(tmp_path, "run", _config(project, "sizes"), "--launcher", "debug")


_SBATCH = """#!/bin/sh
cp "$1" {folder}/submitted.sh
echo "sbatch: error: this is a test" >&2
exit 1
"""


def test_a_queue_is_asked_for_what_the_options_say(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "sbatch": _SBATCH.format(folder=tmp_path),
        "srun": "#!/bin/sh\n",
        "sacct": "#!/bin/sh\n",
    }.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    options = "{slurm_partition: gpu, gpus_per_node: 1, timeout_min: 600}"
    with pytest.raises(SystemExit, match="this is a test"):
        run(tmp_path, "run", _config(project, "sizes"), "--launcher", "slurm", "--jobs", "4", "--job_options", options)
    script = (tmp_path / "submitted.sh").read_text()
    for line in ("--partition=gpu", "--gpus-per-node=1", "--time=600", "--array=0-3", "--job-name=umedpt"):
        assert line in script


@pytest.mark.slow
def test_processes_of_this_machine_do_it_too(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "REPLICATES", REPLICATES)  # as in the processes of the jobs
    content = _config(project, "sizes", modes=["frozen"])
    alone = run(tmp_path, "alone", content)
    together = run(tmp_path, "together", content, "--launcher", "local", "--jobs", "2")
    assert tables(together) == tables(alone)
