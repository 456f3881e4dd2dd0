"""How those are told how far it is who wait: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Called with how much is done since the last call.
Advance = Callable[[int], None]
#: Given what is done and how much there is to do, lets one advance meanwhile.
ProgressCallback = Callable[[str, int], AbstractContextManager[Advance]]

_SECONDS_BETWEEN_LINES = 10.0
# The bar on the screen; what is done inside of a longer step gets a row in it, since two bars would fight for the line.
_shown: ContextVar[Progress | None] = ContextVar("shown", default=None)


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Advance]:
    """Tells nobody."""
    yield lambda steps: None


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Shows on stderr how far `what` is, of `total` steps, and how long it will take."""
    outer = _shown.get()
    bar = outer or _bar()
    task = bar.add_task(what, total=total)
    token = _shown.set(bar)
    started = told = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, told
        done += steps
        bar.update(task, completed=done, refresh=True)
        now = time.monotonic()
        if bar.disable and now - told >= _SECONDS_BETWEEN_LINES and done < total:
            told = now
            left = timedelta(seconds=round((now - started) / done * (total - done)))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)

    with nullcontext() if outer else bar:
        try:
            yield advance
        finally:
            bar.remove_task(task)
            _shown.reset(token)


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # without a thread of its own, since workers are forked while it runs
    return Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
