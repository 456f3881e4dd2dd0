"""What is seen of processes that outlive their test."""

from __future__ import annotations

import os
import subprocess
from multiprocessing import get_context

import leaks
import torch
from torch.utils.data import DataLoader


def test_a_process_that_lives_on_is_seen_and_one_that_has_ended_is_not() -> None:
    before = leaks.children()
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("here\n")
    assert process.stdout.readline() == "here\n"  # before it is the program, it is Python
    assert leaks.living(leaks.children() - before) == {process.pid: "cat"}
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert leaks.children() - before == {process.pid}
    assert leaks.living(leaks.children() - before) == {}
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_workers_that_read_on_are_seen_and_helpers_of_python_are_not() -> None:
    before = leaks.children()
    batches = iter(DataLoader(torch.arange(100), num_workers=2))  # type: ignore[arg-type]
    next(batches)
    assert len(leaks.living(leaks.children() - before)) == 2
    del batches
    before = leaks.children()
    context = get_context("forkserver")
    process = context.Process(target=os.getpid)
    process.start()
    process.join()
    assert leaks.living(leaks.children() - before) == {}
