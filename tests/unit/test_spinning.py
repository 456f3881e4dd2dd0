"""Threads of a training do not spin long for each other."""

from __future__ import annotations

import os

import pytest

from umedpt_lightning.cli import wait_shortly


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
