"""Which files are volumes, by their names, and what opens them."""

from __future__ import annotations

from pathlib import Path

from umedpt_lightning.data.volume.itk import ItkVolume
from umedpt_lightning.data.volume.volumes import MghVolume, NiftiVolume, Volume

#: What opens a file by the end of its name. A pair of ``.img`` and ``.hdr`` goes by the file with the voxels.
_OPENERS: dict[str, type[Volume]] = {
    ".nii": NiftiVolume,
    ".nii.gz": NiftiVolume,
    ".img": NiftiVolume,
    ".img.gz": NiftiVolume,
    ".mgz": MghVolume,
    ".mgh": MghVolume,
    ".nrrd": ItkVolume,
    ".nhdr": ItkVolume,
    ".mha": ItkVolume,
    ".mhd": ItkVolume,
}
#: Files that belong to one with another of these suffixes, and are read with it.
COMPANIONS = (".hdr", ".hdr.gz", ".img", ".img.gz", ".raw", ".raw.gz", ".zraw")


def volume_suffix(path: Path | str) -> str:
    """The end of the name that says it is a volume; empty where it does not."""
    name = str(path).lower()
    return max((suffix for suffix in _OPENERS if name.endswith(suffix)), key=len, default="")


def open_volume_file(path: Path) -> Volume:
    """The volume in a file with a `volume_suffix`.

    Raises:
        ImportError: Its library is missing.
        ValueError: It cannot be used.
    """
    return _OPENERS[volume_suffix(path)](path)  # type: ignore[call-arg]  # each takes the path alone
