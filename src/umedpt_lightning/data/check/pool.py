"""All samples through one pool of processes, which outlives any sample."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, cast

from umedpt_lightning.data.check.sample import Part, Reading, read_sample
from umedpt_lightning.data.loading.worker import how_ended, prepare_worker
from umedpt_lightning.labels.findings import Finding

#: Task and part.
Key = tuple[str, str]
_LARGEST_CHUNK = 64


class _Chunk(NamedTuple):
    key: Key
    start: int
    stop: int


def read_all(parts: Mapping[Key, Part], workers: int) -> Iterator[tuple[Key, list[Reading]]]:
    """Reads every sample once, and yields some samples of one reader at a time, in no certain order.

    A process that dies is replaced, and the sample that it was reading is reported.
    """
    # fork shares the readers' tables and starts at once; it is unsafe where system libraries run threads (macOS)
    method = "fork" if multiprocessing.get_start_method() in ("fork", "forkserver") else "spawn"
    context = multiprocessing.get_context(method)
    todo = deque(_chunks({key: len(part.reader) for key, part in parts.items()}, workers))
    pool = [_Worker(context, parts) for _ in range(min(workers, len(todo)))]
    try:
        for worker in pool:
            worker.give(todo.popleft())
        busy = {worker.connection: worker for worker in pool}
        while busy:
            for connection in wait(list(busy)):
                worker = busy.pop(cast(Connection, connection))  # `wait` returns what it was given
                chunk = worker.chunk
                try:
                    yield chunk.key, worker.connection.recv()
                except (EOFError, OSError):
                    index, reading = worker.post_mortem()
                    yield chunk.key, [reading]
                    # what the process had read of its chunk is lost with it
                    rest = [chunk._replace(stop=index), chunk._replace(start=index + 1)]
                    todo.extendleft(part for part in rest if part.start < part.stop)
                    worker.end()
                    pool.remove(worker)
                    if todo:
                        worker = _Worker(context, parts)
                        pool.append(worker)
                if todo:
                    worker.give(todo.popleft())
                    busy[worker.connection] = worker
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """A process that reads chunks, and how far it is."""

    chunk: _Chunk

    def __init__(self, context: BaseContext, parts: Mapping[Key, Part]) -> None:
        self._current = context.RawValue(ctypes.c_int64, -1)
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self._current, parts)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection

    def give(self, chunk: _Chunk) -> None:
        self.chunk = chunk
        self._current.value = chunk.start
        try:
            self.connection.send(chunk)
        except OSError:  # it is dead, as the next receipt will show
            return

    def post_mortem(self) -> tuple[int, Reading]:
        """The index of the sample that killed the process, and what to say of it."""
        self._process.join()
        code, index = int(self._process.exitcode), int(self._current.value)
        cause = "Memory may have run out: try fewer `--workers`." if code == -signal.SIGKILL else "Correct the reader."
        what = f"the process that read sample {index} of this part ended {how_ended(code)}"
        return index, Reading(index, f"sample {index}", [Finding("unreadable", what, f"Leave the sample out. {cause}")])

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, current: Any, parts: Mapping[Key, Part]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    prepare_worker()
    while True:
        try:
            chunk: _Chunk = connection.recv()
        except EOFError:  # the parent is gone
            return
        part, found = parts[chunk.key], []
        part.reader.ahead(range(chunk.start, chunk.stop))
        for index in range(chunk.start, chunk.stop):
            current.value = index
            found.append(read_sample(part, index))
        connection.send(found)


def _chunks(lengths: Mapping[Key, int], workers: int) -> Iterator[_Chunk]:
    for key, length in lengths.items():
        # small enough that all workers end together
        step = max(1, min(_LARGEST_CHUNK, length // (4 * workers)))
        for start in range(0, length, step):
            yield _Chunk(key, start, min(start + step, length))
