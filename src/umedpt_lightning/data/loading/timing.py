"""How long reading takes where nothing else is done."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice

from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.data.loading.worker import prepare_worker


def time_loading(loader: RoundLoader, micro_batches: int) -> dict[str, list[float]]:
    """Reads micro-batches in this process, the next ones of the loader, which itself does not move.

    Args:
        loader: A loader of training data.
        micro_batches: How many to read, of all tasks together. Those of a task with a cache are read twice, and the
            second time counts, as in all passes through the data but the first.

    Returns:
        Seconds of each micro-batch, by task: reading, augmenting, and putting together.
    """
    if loader.pool.workers:
        prepare_worker()
    pool = replace(loader.pool, workers=0, pin_memory=False)
    cached = {task: isinstance(reader, CachedReader) for task, reader in loader.dataset.readers.items()}
    times: dict[str, list[float]] = {}
    for second in (False, True) if any(cached.values()) else (False,):
        stream = pool.stream(pool.load(loader.dataset, loader.sampler))
        started = time.perf_counter()
        for batch in islice(stream, micro_batches):
            now = time.perf_counter()
            if cached[batch.task] == second:
                times.setdefault(batch.task, []).append(now - started)
            started = time.perf_counter()
    return times
