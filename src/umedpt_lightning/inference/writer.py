"""Writing in a thread of its own, so that what computes does not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

#: So much may be left to write before what computes waits all the same: it is kept in memory.
_MOST_WAITING = 4


class BackgroundWriter:
    """Calls functions in another thread, one after the other; leaving the block waits for all of them.

    Whatever a function raises is raised by a later call, or at the end of the block. If the block is left by an
    exception, what has not begun is not done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[Any]] = deque()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls the function with the arguments, soon."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
