"""Threads of a training leave cores to its workers, and do not spin for each other."""

from __future__ import annotations

import os

import pytest

from umedpt_lightning.cli.spinning import wait_shortly
from umedpt_lightning.runs.fit import threads_for


@pytest.mark.parametrize(
    ("cores", "workers", "ranks", "threads"),
    [(2, 1, 1, 1), (2, 0, 1, 2), (2, 8, 1, 1), (64, 8, 4, 8), (64, 0, 4, 16), (1, 0, 1, 1), (8, 2, 16, 1)],
)
def test_a_rank_has_the_cores_that_its_workers_leave(cores: int, workers: int, ranks: int, threads: int) -> None:
    assert threads_for(workers, ranks, cores) == threads


@pytest.mark.parametrize("said", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_what_the_user_says_of_waiting_counts(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(said, "given")
    wait_shortly()

    assert {name: value for name, value in os.environ.items() if name == said or name == "GOMP_SPINCOUNT"} == {
        said: "given"
    }


def test_threads_wait_shortly_by_default(monkeypatch: pytest.MonkeyPatch) -> None:

    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    wait_shortly()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 300_000
    monkeypatch.delenv("GOMP_SPINCOUNT")
