"""What the `medmnist` package knows of the sets of MedMNIST: class names, addresses, checksums."""

from __future__ import annotations

import ast
import re
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import download_url

from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.labels.wording import shorten

_NAME = re.compile(r"(?P<set>[a-z]+mnist)(?P<size>_\d+)?")


def label_names(file: Path, labels: int) -> list[str] | None:
    """Names of the classes or labels of a file such as ``pathmnist_224.npz``.

    None where the package is not installed, or does not know the set, or knows another number of `labels`.
    """
    match = _NAME.fullmatch(file.stem)
    known = _sets().get(match["set"]) if match else None
    return list(known["label"].values()) if known and len(known["label"]) == labels else None


def download(file: Path) -> None:
    """Fetches a file that is not there, such as ``pathmnist_224.npz``.

    Raises ImportError without the package, ValueError where it knows no such set or size, OSError where that fails.
    """
    sets = _sets()
    if not sets:
        raise ImportError(
            f"{file}: its address comes from medmnist, which is not installed. Install it with: "
            'pip install "umedpt-lightning[medmnist]"'
        )
    match = _NAME.fullmatch(file.stem)
    known, size = (sets.get(match["set"], {}), match["size"] or "") if match else ({}, "")
    if file.suffix != ".npz" or f"url{size}" not in known:
        names = [name for name in sets if not name.endswith("3d")]
        raise ValueError(
            f"{file}: MedMNIST has no file of that name, but {shorten(names, 20)}, each as NAME.npz (28 pixels), "
            "NAME_64.npz, NAME_128.npz and NAME_224.npz. Correct the name."
        )
    url, md5 = known[f"url{size}"], known[f"MD5{size}"]
    try:
        with atomic_write(file) as unfinished:
            download_url(url, unfinished.parent, unfinished.name, md5)
    except (OSError, HTTPException, RuntimeError) as error:  # the last is that of the checksum
        raise OSError(
            f"{file}: it could not be fetched from {url} ({error}). Try again with a network, or fetch it elsewhere "
            f"(MD5 {md5}), put it there, and leave `download` out."
        ) from error


def _sets() -> dict[str, Any]:
    """The table of the package; empty where it is not installed.

    It is read, not imported: the import makes a folder in the user's home, and takes seconds for pandas.
    """
    package = find_spec("medmnist")
    if package is None or package.origin is None:
        return {}
    source = ast.parse(Path(package.origin).with_name("info.py").read_text(encoding="utf-8"))
    for node in source.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["INFO"]:
            table: dict[str, Any] = ast.literal_eval(node.value)
            return table
    return {}
