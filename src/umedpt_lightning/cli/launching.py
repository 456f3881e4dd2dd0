"""A sweep on many processes or machines, by submitit: each job does what no other one does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from umedpt_lightning.data.extras import require

#: Where jobs run: in processes of this machine, in SLURM's queue, or one after the other in this process.
Launcher = Literal["local", "slurm", "debug"]
# submitit would end a job after five minutes
_MINUTES = 24 * 60
_LINES = 15  # of the output of a job that failed


def add_launcher_options(parser: jsonargparse.ArgumentParser) -> None:
    """Adds the options that `launch` is called with."""
    where = "Where jobs share the cells out: processes of this machine, or a queue; debug: in this process."
    parser.add_argument("--launcher", type=Launcher | None, default=None, help=where)
    parser.add_argument("--jobs", type=int, default=2, help="How many jobs share the cells out.")
    said = "Of the jobs, as {slurm_partition: gpu, gpus_per_node: 1, timeout_min: 600, mem_gb: 32}."
    parser.add_argument("--job_options", type=dict[str, Any], default={}, help=said)


class Job:
    """What all jobs of a sweep do.

    Args:
        arguments: Of ``umedpt transfer``.
        jobs: How many there are.
    """

    def __init__(self, arguments: Sequence[str], jobs: int) -> None:
        self.arguments, self.jobs = list(arguments), jobs

    def __call__(self, number: int) -> None:
        """What one of them does, counted from 0."""
        from umedpt_lightning.cli.transfer import work

        sys.path.append(os.getcwd())  # as for a command
        work(self.arguments, (number, self.jobs))

    def checkpoint(self, number: int) -> Any:
        """Called by submitit when a job must give way: it is queued again, and what is finished is kept."""
        return require("submitit", "launch", "--launcher").helpers.DelayedSubmission(self, number)


def launch(job: Job, launcher: Launcher, options: Mapping[str, Any], folder: Path) -> None:
    """Runs all jobs, and waits for them.

    Args:
        job: What they do.
        launcher: Where they run.
        options: Of submitit, such as ``{slurm_partition: gpu, gpus_per_node: 1, timeout_min: 600}``.
        folder: For what they print.

    Raises:
        ImportError: submitit is missing.
        ValueError: There is no such queue or option, or a job ended with an error.
    """
    if job.jobs < 1:
        raise ValueError(f"--jobs is {job.jobs}, but at least one is needed.")
    submitit = require("submitit", "launch", f"--launcher {launcher}")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher)
        executor.update_parameters(**{"name": "umedpt", "timeout_min": _MINUTES, **options})
        with executor.batch():
            jobs = [executor.submit(job, number) for number in range(job.jobs)]
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"--launcher {launcher}: submitit cannot start jobs so ({error}). Correct --launcher or --job_options."
        ) from error
    print(f"{job.jobs} jobs, which print to {folder}", flush=True)
    ends = [one.exception() for one in jobs]
    failed = [number for number, end in enumerate(ends) if end is not None]
    if failed:
        last = str(ends[failed[0]]).splitlines()[-_LINES:]
        raise ValueError(
            f"{len(failed)} of {job.jobs} jobs ended with an error. What is finished is kept, and the same command "
            f"goes on. The first, {jobs[failed[0]].paths.stderr}:\n" + "\n".join(last)
        )
