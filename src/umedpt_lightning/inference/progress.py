"""How those are told how far it is who wait for predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Called with how much is done since the last call.
Advance = Callable[[int], None]
#: Given what is done and how much there is to do, lets one advance meanwhile.
ProgressCallback = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Advance]:
    """Tells nobody."""
    yield lambda steps: None
