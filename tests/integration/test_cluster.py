"""Whole runs of the command line with several processes, as docs/cluster.md describes them."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import free_port
from umedpt_lightning.model import MultiTaskModel

pytestmark = pytest.mark.slow


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def fit(project: Path, run: Path, *options: str) -> list[str]:
    return ["umedpt_lightning", "fit", "--config", str(project / "config.yaml"), "--run", str(run), *options]


def loader_state(run: Path) -> dict[str, Any]:
    loops = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["loops"]
    (state,) = loops["fit_loop"]["state_dict"]["combined_loader"]
    found: dict[str, Any] = state
    return found


@pytest.mark.parametrize("distribute", ["samples", "tasks"])
def test_two_nodes_of_torchrun_train_together(project: Path, tmp_path: Path, distribute: str) -> None:
    port, run = str(free_port()), tmp_path / "run"
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"]
    options = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp"]
    command = fit(project, run, *options, "--data.distribute", distribute)
    nodes = [start("torch.distributed.run", *meet, "--node-rank", str(i), "-m", "--", *command) for i in range(2)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert (run / "metrics.json").is_file()
    consumed = loader_state(run)["consumed"]
    assert set(consumed.values()) == {(2 if distribute == "samples" else 1) * 3 * 4}, "three rounds of four samples"


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_rank_that_is_killed_ends_the_run_with_a_message(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--trainer.devices", "2", "--data.steps_per_epoch", "100000"]
    timeout = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", "0:03:00"]
    process = start(*fit(project, run, *options, *timeout))
    assert process.stdout is not None
    try:
        before = list(itertools.takewhile(lambda line: not line.startswith("round"), process.stdout))
        assert process.poll() is None, before
        (rank,) = children(process.pid)
        os.kill(rank, signal.SIGKILL)
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode != 0
    assert (
        "another rank has ended or does not answer" in output or f"Child process with PID {rank} terminated" in output
    )


def test_the_documented_command_for_large_models_trains_goes_on_in_one_process_and_is_exported(
    project: Path, tmp_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("umedpt fit") and "sharded" in line)
    options = dict(itertools.pairwise(shlex.split(line)))
    run = tmp_path / "run"
    sharded = ["--trainer.strategy", options["--trainer.strategy"], "--trainer.devices", "2"]
    first = start(*fit(project, run, *sharded))
    output = first.communicate(timeout=300)[0]
    assert first.returncode == 0, output
    # the same parameters, whole, and what the optimizer knows of them
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    rounds, moments = state["global_step"], state["optimizer_states"][0]["state"]
    assert {type(v) for s in (state["state_dict"], *moments.values()) for v in s.values()} == {torch.Tensor}
    alone = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--ckpt_path", "last", "--trainer.max_epochs", "4"]
    second = start(*fit(project, run, *alone))
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0, output
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > rounds
    export = start("umedpt_lightning", "export", "--run", str(run), "--out", str(tmp_path / "model"))
    output = export.communicate(timeout=100)[0]
    assert export.returncode == 0, output
    model = MultiTaskModel.from_pretrained(tmp_path / "model")
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
