"""Processes that outlive the test that started them."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: What is started once and serves until the end: Python's own helpers, and W&B's.
_STANDING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "wandb-core")
_SECONDS = 10.0  # in which what was told to end has to


def children() -> set[int]:
    """Ids of this process's children, those that have ended and were not waited for included."""
    found: set[int] = set()
    for one in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found.update(map(int, one.read_text().split()))
    return found


def living(processes: set[int]) -> dict[int, str]:
    """The commands of those that still run and do not serve until the end."""
    found = {}
    for process in processes:
        folder = Path("/proc") / str(process)
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            ended = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not ended and not any(word in command for word in _STANDING):
            found[process] = command
    return found


@pytest.fixture(autouse=True)
def processes_end() -> Iterator[None]:
    """Fails a test that leaves a process behind: a worker, a rank, or a program that it started."""
    before = children()
    yield
    end = time.monotonic() + _SECONDS
    while left := living(children() - before):
        if time.monotonic() > end:
            pytest.fail(f"{len(left)} processes outlive the test: {left}", pytrace=False)
        gc.collect()  # what reads may be part of a cycle
        multiprocessing.active_children()  # waits for those that have ended
        time.sleep(0.05)
