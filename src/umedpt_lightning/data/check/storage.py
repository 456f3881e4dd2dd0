"""How the files of a task are stored: those that nothing reads, masks with loss, depths that are hardly used."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from umedpt_lightning.data.cache.identity import named_files
from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.formats.masks import lossy_format
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.volume.dicom_file import begins_like_dicom
from umedpt_lightning.data.volume.volume_files import COMPANIONS

#: Share of the value range that images should use at the least.
_LEAST_USED = 0.1
#: Files that are looked into, of many that are not read.
_MOST_OPENED = 1000


def find_unread(name: str, task: TaskData) -> Iterator[Problem]:
    """Files in the folders of readers that no part of the task reads."""
    found: set[str] = set()
    read: set[str] = set()
    for reader in task.readers.values():
        inside = {os.path.abspath(path) for path in reader.found()}
        if inside:
            found |= inside
            with contextlib.suppress(ValueError):  # it cannot be pickled, which the cache would tell
                read |= named_files(reader)
    stems = {os.path.splitext(path)[0] for path in read}
    left = sorted(path for path in found - read if not (path.endswith(COMPANIONS) and _stem(path) in stems))
    if not left:
        return
    kinds = Counter(os.path.splitext(path)[1].lower() or "without suffix" for path in left)
    kinds_told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    dicom = sum(begins_like_dicom(path) for path in left[:_MOST_OPENED])
    hint = f"Give the {dicom} that are DICOM the suffix .dcm. " if dicom else ""
    folder = os.path.commonpath(left) if len(left) > 1 else os.path.dirname(left[0])
    what = f"{len(left)} of {len(found)} files in it are read by no part ({kinds_told}), such as {Path(left[0]).name}"
    mend = f"{hint}Convert what should be read to a format that is, and take the rest out of the folder."
    relative = os.path.relpath(folder)
    shown = folder if relative.startswith("..") else relative
    yield Problem(name, "", shown, what, mend, "setup", "warning")


def find_lossy_masks(name: str, task: TaskData) -> Iterator[Problem]:
    """Parts whose masks are stored with loss."""
    for part, reader in task.readers.items():
        formats = {path: kind for path in reader.mask_files() if (kind := lossy_format(path))}
        if formats:
            first, kind = next(iter(formats.items()))
            what = f"{len(formats)} masks are stored with loss (this one as {kind}), which smears the edges of classes"
            mend = "Export them again as PNG: saved anew, they stay smeared."
            yield Problem(name, part, first, what, mend, "mask", "warning")


def find_unused_range(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Parts whose images use little of the range that becomes 0 to 1, such as 12 bits in 16."""
    for part, tally in tallies.items():
        if not tally.read.any():
            continue
        bottom, top = tally.spec.value_range
        low, high = tally.intensities[tally.read, 0].min(), tally.intensities[tally.read, 2].max()
        used = float(np.clip(high, bottom, top) - np.clip(low, bottom, top)) / (top - bottom)
        if 0 < used < _LEAST_USED:
            what = (
                f"all images lie between {low:g} and {high:g}, which is {used:.1%} of the value_range {bottom:g} to "
                f"{top:g}: the encoder sees hardly any contrast"
            )
            mend = f"Write `value_range: [{min(low, 0):g}, {_next_power(high):g}]` in the readers of all parts."
            yield Problem(name, part, f"data.tasks.{name}.{part}", what, mend, "intensity", "warning")


def _next_power(high: float) -> float:
    """The greatest number of as many bits, where that is what a camera or scanner has; else the number."""
    return 2.0 ** np.ceil(np.log2(high + 1)) - 1 if high >= 1 and float(high).is_integer() else high


def _stem(path: str) -> str:
    suffix = max((suffix for suffix in COMPANIONS if path.endswith(suffix)), key=len)
    return path[: -len(suffix)]
