"""Faults that are found together, so that the first one does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TypeVar

_MOST_TOLD = 3
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FaultsError(ValueError):
    """Several things that are wrong with a table, a file or a folder.

    Args:
        message: The first ones and their number.
        each: One error each. Its message is ``name: what was found. The mend.``
    """

    def __init__(self, message: str, each: Sequence[Exception] = ()) -> None:
        super().__init__(message)
        self.each = list(each)


class MissingFilesError(FaultsError, FileNotFoundError):
    """Several files that are missing."""


class ServerLostError(ConnectionError):
    """A server does not answer: no fault of the sample that was wanted, so that no other can stand in for it."""


class Collector:
    """Runs blocks of code one after the other, also where one before found faults.

    What a block raises, a ValueError or OSError, is kept, and the rest of that block is left out::

        faults = Collector()
        with faults:
            images = read_images()
        with faults:
            labels = read_labels()
        faults.raise_found()
    """

    def __init__(self) -> None:
        self._found: list[Exception] = []

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, ValueError | OSError):
            return False
        self._found.append(error)
        return True

    def good(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """What a function returns for each item of which it raises nothing."""
        results = []
        for item in items:
            with self:
                results.append(function(item))
        return results

    def raise_found(self) -> None:
        """Raises what the blocks raised, see `raise_all`."""
        raise_all(self._found)


def raise_all(errors: Sequence[Exception]) -> None:
    """Raises one error as it is, and several as `FaultsError`, or `MissingFilesError` where they are nothing else."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        each = [fault for error in errors for fault in each_of(error)]
        more = len(each) > len(errors) or len(errors) > _MOST_TOLD
        lines = [f"{len(each)} faults{'; `umedpt data check` names all' if more else ''}:"]
        kind = MissingFilesError if all(isinstance(error, FileNotFoundError) for error in errors) else FaultsError
        raise kind("\n".join([*lines, *map(str, errors[:_MOST_TOLD])]), each)


def each_of(error: Exception) -> list[Exception]:
    """The errors that an error stands for, itself if it is no `FaultsError`."""
    return error.each if isinstance(error, FaultsError) else [error]


def for_all(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """What a function returns for each item; what it raises, a ValueError or OSError, it raises for all at once."""
    faults = Collector()
    results = faults.good(function, items)
    faults.raise_found()
    return results
