"""Names of files that cannot lead out of their folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_LONGEST = 100
#: Of files for an input.
SUFFIXES = (".png", ".nii", ".nii.gz", ".tif", ".csv", ".geojson")
#: A name of a file or folder that is one on every system.
_PLAIN = re.compile(r"\w[\w .-]{0,150}")


def file_name(name: str, suffix: str) -> str:
    """Where a file for an input lies, below a folder; inputs in folders keep them.

    Args:
        name: The input's, such as ``a/b.png``; one that could lead elsewhere is changed.
        suffix: Of the file; not added to a name that has it.
    """
    file = name if name.lower().endswith(suffix) else name + suffix
    if all(_PLAIN.fullmatch(part) for part in file.split("/")):
        return file
    plain = re.sub(r"[^\w.-]+", "_", file).lstrip("._")[-_LONGEST:]
    return f"{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}_{plain}"


def check_names(names: Sequence[str]) -> None:
    """Holds that no two inputs have the same files: a suffix is not written twice.

    Raises:
        ValueError: They have.
    """
    written = {name + suffix for name in names for suffix in SUFFIXES}
    if clashes := sorted(written.intersection(names)):
        raise ValueError(
            f"--inputs: files for {clashes[0]} would take the place of those for another input whose name lacks the "
            "suffix. Rename one of them."
        )
