"""What can be wrong with data, and how an exception becomes a line about it."""

from __future__ import annotations

import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

from umedpt_lightning.labels.findings import Finding, Kind, Severity

# Messages of readers are "name: what was found. The mend."
_NAME = re.compile(r"(?P<name>\S.*?): (?P<rest>.*)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[^.])\.\s+(?=[A-Z])")


@dataclass(frozen=True)
class Problem:
    """A finding, and where it is.

    Attributes:
        part: ``train``, ``val`` or ``test``; empty where it is about the whole task.
        name: What is at fault: a file, a class, a key of the config.
        what: What was found.
        severity: An error spoils the training or its measure, a warning may be meant so.
    """

    task: str
    part: str
    name: str
    what: str
    mend: str
    kind: Kind
    severity: Severity = "error"

    @classmethod
    def of(cls, found: Finding, task: str, part: str, name: str) -> Problem:
        """What was found with a sample of a part."""
        return cls(task, part, name, found.what, found.mend, found.kind, found.severity)


def take_apart(error: Exception, name: str, mend: str) -> tuple[str, str, str]:
    """Name, finding and mend in the message of an exception.

    `name` and `mend` stand in where the message names no file, or does not say what to do.
    """
    text = str(error) or "no message"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        name, text = os.fsdecode(error.filename), error.strerror
    elif not isinstance(error, ValueError | OSError):  # not a message for users: say what it is
        at = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" (in {at[0].filename} line {at[0].lineno})" if at else ""
        return name, f"{type(error).__name__}: {text}{place}", mend
    elif (match := _NAME.fullmatch(text)) and (os.sep in match["name"] or Path(match["name"]).suffix):
        name, text = match["name"], match["rest"]
    found, *rest = _SENTENCE_END.split(text, maxsplit=1)
    return name, found.rstrip("."), rest[0] if rest else mend
