"""The framework of the benchmarks, and the snapshot of what they measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import mutants, results
from benchmarks.gpu import GPU
from benchmarks.on_device import Waits
from benchmarks.suite import BENCHMARKS, Benchmark, Figure

FIGURES = {key: figure for benchmark in BENCHMARKS.values() for key, figure in benchmark.figures.items()}
FAKE = {
    "good": Benchmark(
        "fake:measure", (1, 1), {"memory.small": Figure(at_most=1.1), "speed.fast": Figure("ms", at_least=5)}
    )
}


class InThisProcess(Benchmark):
    """Measures nothing."""

    values: dict[str, float] = {"memory.small": 1.23456, "speed.fast": 7.0}  # noqa: RUF012  # never changed

    def measure(self, quick: bool) -> dict[str, float]:
        return self.values


def fake() -> Benchmark:
    return InThisProcess("fake:measure", (1, 1), FAKE["good"].figures)


def test_a_run_writes_value_target_unit_and_command_by_group_and_prints_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = tmp_path / "new" / "results.json"
    assert program.run(["good"], quick=True, file=file, benchmarks={"good": fake()}) == []
    found = json.loads(file.read_text())
    assert found.keys() == {"machine", "date", "memory", "speed"}
    assert {"cpu", "cores", "memory_gib", "torch"} <= found["machine"].keys()
    command = "python -m benchmarks good --quick"
    assert found["memory"] == {"small": {"value": 1.2346, "target": "<= 1.1", "unit": "ratio", "command": command}}
    assert found["speed"] == {"fast": {"value": 7.0, "target": ">= 5", "unit": "ms", "command": command}}
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "MISSED" in lines["memory.small"]
    assert "<= 1.1" in lines["memory.small"]
    assert "met" in lines["speed.fast"]


def test_one_that_fails_stops_no_other_and_ends_the_program_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    benchmarks = {"bad": FAKE["good"], "good": fake()}  # there is no benchmarks/fake.py
    assert program.run(["bad", "good"], False, tmp_path / "r.json", benchmarks) == ["bad"]
    assert "failed: ModuleNotFoundError" in capsys.readouterr().out
    assert results.read(tmp_path / "r.json")["speed"]["fast"]["value"] == 7.0
    monkeypatch.setattr(program, "run", lambda *_: ["bad"])
    with pytest.raises(SystemExit, match="failed: bad"):
        program.main(["--results", str(tmp_path / "r.json")])


def test_an_unknown_name_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["typo"])
    assert "there is no typo, only start, " in capsys.readouterr().err


def test_a_figure_that_is_not_declared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"good: .*differ by speed\.fast, speed\.other"):
        results.merged({}, "good", FAKE["good"], {"memory.small": 1, "speed.other": 1}, quick=False)


def test_figures_of_this_machine_are_kept_and_those_of_another_are_not() -> None:
    values = InThisProcess.values
    old = results.merged({}, "good", FAKE["good"], values, quick=False)
    old["other"] = {"figure": {"value": 1}}
    assert "other" in results.merged(old, "good", FAKE["good"], values, quick=False)
    old["machine"] = old["machine"] | {"cores": 1000}
    assert "other" not in results.merged(old, "good", FAKE["good"], values, quick=False)


def test_a_target_is_met_up_to_its_bound() -> None:
    assert Figure(at_most=1.0).met(1.0)
    assert not Figure(at_most=1.0).met(1.001)
    assert Figure(at_least=1.0).met(1.0)
    assert not Figure(at_least=1.0).met(0.999)
    assert Figure().met(1e9)
    assert Figure().target is None


@pytest.mark.parametrize("benchmark", [*BENCHMARKS.values(), *GPU.values()], ids=[*BENCHMARKS, *GPU])
def test_every_benchmark_is_there(benchmark: Benchmark) -> None:
    module, function = benchmark.function.split(":")
    assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))


def test_the_program_stays_within_the_time_it_promises() -> None:
    full, quick = (sum(benchmark.seconds[i] for benchmark in BENCHMARKS.values()) for i in (0, 1))
    assert full < 30 * 60
    assert quick < 3 * 60
    assert sum(benchmark.seconds[0] for benchmark in GPU.values()) < 6 * 60


def test_every_figure_of_a_gpu_has_a_target() -> None:
    assert all(figure.target for benchmark in GPU.values() for figure in benchmark.figures.values())


@pytest.mark.slow
@pytest.mark.skipif(results.machine()["gpu"] is not None, reason="it would measure")
def test_what_needs_a_gpu_runs_to_its_end_without_one_and_writes_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = program.RESULTS_GPU.read_bytes() if program.RESULTS_GPU.is_file() else None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(program, "ON_CPU", tmp_path / "on_cpu.json")
    program.main(["gpu"])
    assert "There is no GPU" in capfd.readouterr().out
    found = json.loads((tmp_path / "on_cpu.json").read_text())["gpu"]
    assert {f"gpu.{name}" for name in found} == {key for benchmark in GPU.values() for key in benchmark.figures}
    assert (program.RESULTS_GPU.read_bytes() if program.RESULTS_GPU.is_file() else None) == before


@pytest.mark.parametrize("key", sorted(FIGURES))
def test_the_snapshot_holds_every_declared_figure_with_its_target(key: str) -> None:
    group, figure = key.split(".")
    snapshot = json.loads(program.RESULTS.read_text())
    found = snapshot[group][figure]
    assert isinstance(found["value"], int | float)
    assert found["target"] == FIGURES[key].target
    assert found["command"].startswith("python -m benchmarks ")
    assert "--quick" not in found["command"]


@pytest.mark.parametrize("mutant", mutants.listed(), ids=str)
def test_a_mutant_breaks_a_line_that_is_there_and_names_tests_that_are(mutant: mutants.Mutant) -> None:
    text = (mutants.ROOT / "src" / "umedpt_lightning" / mutant.file).read_text()
    compile(mutant.of(text), mutant.file, "exec")
    with pytest.raises(ValueError, match="is out of date, it stands 0 times"):
        mutant.of(text.replace(mutant.old, ""))
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (mutants.ROOT / "tests" / file).read_text()


@pytest.mark.skipif(results.machine()["gpu"] is not None, reason="a GPU tells itself")
def test_what_would_wait_for_a_gpu_is_counted_on_a_cpu() -> None:
    values = torch.arange(3.0)
    with Waits() as waits:
        values.nonzero(), values[values > 1], values.sum().item(), values.add(1)
    assert waits.count == 3
