"""What processes use: CPU time and memory, read from /proc."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def workers() -> list[int]:
    """Ids of the processes that this one has started and that still run."""
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def cpu_of_workers() -> float:
    """Seconds of CPU time, user and system, that they have used."""
    return sum(_cpu(pid) for pid in workers())


def cpu() -> float:
    """Seconds of CPU time of this process and its workers."""
    return time.process_time() + cpu_of_workers()


def cpu_with_ended() -> float:
    """Seconds of CPU time of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """CPU time of a call, that of the workers it starts and ends included, and its time by the clock."""
    cpu_before, clock = cpu_with_ended(), time.perf_counter()
    function()
    return cpu_with_ended() - cpu_before, time.perf_counter() - clock


def memory() -> float:
    """MiB that this process and its workers use; what several share is divided between them (PSS).

    The parent counts too: what it still shares with this process is used as well.
    """
    return sum(_pss(pid) for pid in [os.getppid(), os.getpid(), *workers()])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process that has done nothing before, other than import what it needs.

    It has this one's environment.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.imported"])
    # it is to start its own workers as any other process does
    method = multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, server, _start_workers_by, (method, dict(os.environ))) as pool:
        return pool.submit(function, *arguments).result()


def side_by_side(*calls: tuple[Callable[..., Any], *tuple[Any, ...]]) -> list[Any]:
    """What functions return, each in a fresh process of its own, all at the same time.

    For what does not depend on what else runs: memory, counts, and CPU times of which both feel the same company.

    Args:
        calls: A function and its arguments each.
    """
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: in_fresh_process(*call), calls))


def _start_workers_by(method: str, environment: dict[str, str]) -> None:
    os.environ.clear()  # of whoever was the first to ask for such a process
    os.environ.update(environment)
    warnings.simplefilter("ignore")  # what goes wrong comes back as an error; the rest would hide the table
    logging.disable(logging.WARNING)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    multiprocessing.set_start_method(method, force=True)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold spaces
    return (int(fields[11]) + int(fields[12])) * _TICK


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rss() -> float:
    """MiB of this process that are in memory."""
    return _status("VmRSS")


def peak_rss() -> float:
    """The most MiB of this process that ever were; unlike `getrusage` it knows nothing of the parent's."""
    return _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


@contextmanager
def on_a_terminal() -> Iterator[None]:
    """Lets rich draw as it does on a terminal, to nowhere."""
    before, terminal = os.environ.get("FORCE_COLOR"), sys.stdout
    os.environ["FORCE_COLOR"] = "1"  # what rich takes as a terminal
    with open(os.devnull, "w") as nowhere:
        sys.stdout = nowhere
        try:
            yield
        finally:
            sys.stdout = terminal
            os.environ.pop("FORCE_COLOR") if before is None else os.environ.update(FORCE_COLOR=before)
