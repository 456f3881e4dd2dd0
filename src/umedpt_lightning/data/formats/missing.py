"""Files that cannot be read, or are missing, with a hint where something much like them is there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from umedpt_lightning.data.formats.faults import MissingFilesError
from umedpt_lightning.data.formats.paths import Paths
from umedpt_lightning.labels.wording import shorten

#: How many files of a table are looked for when a reader is made.
MOST_LOOKED_AT = 100_000


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError where there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder. {_hint(folder)}Correct the path in the configuration."
        )


def check_files(paths: Sequence[Path], what: str, source: object) -> None:
    """Raises FileNotFoundError where files are missing: `what` they are, and which `source` names them.

    Of very many, some are looked at, spread evenly: a file system answers for 1,000 to 300,000 a second. The data check
    reads all.
    """
    step = -(-len(paths) // MOST_LOOKED_AT)
    names: Sequence[str] = paths.texts if isinstance(paths, Paths) else [*map(os.fspath, paths)]
    looked_at = names if step < 2 else names[::step]
    missing = [name for name in looked_at if not os.path.isfile(name)]
    if missing:
        mend = "Correct the names, or the folder they are looked for in."
        of_all = "" if step < 2 else f" that were looked at, of {len(paths):,}"
        raise MissingFilesError(
            f"{source}: {len(missing)} of {len(looked_at)} {what}{of_all} are missing, the first: "
            f"{shorten(missing, 5)}. {_hint(missing[0])}{mend}",
            [no_such_file(path, mend, f", but {source} names it") for path in missing],
        )


def no_such_file(path: Path | str, mend: str, why: str = "") -> FileNotFoundError:
    """The error that a file is missing, with a hint and the mend; `why` says who wanted it, after a comma."""
    return FileNotFoundError(f"{path}: there is no such file{why}. {_hint(path)}{mend}")


def unreadable(what: str, mend: str, path: Path | str, error: object) -> ValueError:
    """The error that a file is not `what` it should be, and why."""
    why = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
    size = f"{os.path.getsize(path)} bytes; " if os.path.exists(path) else ""
    return ValueError(f"{path}: not {what} that can be read ({size}{why}). {mend}")


def composed(name: str) -> str:
    """A name in the Unicode form NFC: macOS and archives write accents as characters of their own."""
    return unicodedata.normalize("NFC", name)


def _hint(path: Path | str) -> str:
    """A sentence about what is there in place of a file; empty where nothing is like it."""
    name = os.fspath(path)
    if os.path.exists(name):  # of the other kind
        return "It is a folder, not a file. " if os.path.isdir(name) else "It is a file, not a folder. "
    if os.sep == "/" and "\\" in name:
        slashed = name.replace("\\", "/")
        found = "is there" if os.path.exists(slashed) else "is how paths are written here"
        return f"Its path has the backslashes of Windows, {slashed!r} {found}. "
    if os.path.exists(unquote(name)):
        return f"Its name is encoded as in a web address, {unquote(name)!r} is there. "
    above, below = os.path.split(name)
    while above and below and not os.path.isdir(above):
        above, below = os.path.split(above)
    if not below:
        return ""
    like = _listing(above or ".", os.stat(above or ".").st_mtime_ns).get(_plain(below))
    if like is None or like == below:
        return ""
    if composed(like) == composed(below):
        form = "NFD" if unicodedata.is_normalized("NFD", like) else "NFC"
        differs = f"has its accents in the form {form} of Unicode, and the name does not (macOS and archives change it)"
    else:
        differs = "differs in upper and lower case"
    return f"{os.path.join(above, like)!r} is there, which {differs}. "


@lru_cache(maxsize=8)  # many files are missing from few folders
def _listing(folder: str, changed: int) -> dict[str, str]:
    try:
        return {_plain(name): name for name in os.listdir(folder)}
    except OSError:
        return {}


def _plain(name: str) -> str:
    return composed(name).casefold()
