"""What can be wrong with a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
#: What a finding is about; a report groups by it.
Kind = Literal[
    "setup", "unreadable", "image", "intensity", "size", "label", "mask", "box", "class", "duplicate", "group"
]
CORRECT_READER = "Correct the reader."


@dataclass(frozen=True)
class Finding:
    """Something wrong with one sample.

    Attributes:
        kind: What it is about.
        what: What was found.
        mend: What to do.
        severity: An error spoils the training or its measure, a warning may be meant so.
    """

    kind: Kind
    what: str
    mend: str
    severity: Severity = "error"


UNLABELLED = Finding("label", "nothing of its target is known", "Label it, or leave it out.", "warning")
