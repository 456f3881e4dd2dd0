"""Masks as DICOM segmentations, which viewers and archives show over the series that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.volume.series import DicomVolume
from umedpt_lightning.drawing.pictures import colour
from umedpt_lightning.io.atomic import atomic_write

_MAKER = "umedpt-lightning"
_SERIES_NUMBER = 900  # behind those of the scanner


def write_dicom_seg(
    voxels: NDArray[np.unsignedinteger], volume: DicomVolume, classes: Sequence[str], task: str, path: Path
) -> None:
    """One binary segment for each class but the background, in the frames, the study and the space of the series.

    What a class is in medical terms is not known: its name is its code, in a private scheme. Frames without a segment
    are left out, as the standard has it.

    Args:
        voxels: Class indices ``(X, Y, Z)`` in RAS order.
        volume: The series.
        classes: Names, the background first.
        task: What made the mask.
        path: The file.

    Raises:
        ImportError: highdicom is missing.
        ValueError: The files lack what the standard asks of a segmentation's source.
    """
    highdicom = require("highdicom", "dicomseg", path)
    codes, pydicom = require("pydicom.sr.coding", "dicom", path), require("pydicom", "dicom", path)
    frames = np.ascontiguousarray(volume.as_stored(voxels).transpose(2, 1, 0))  # (I, J, K) to (frames, rows, columns)
    files, numbers = zip(*volume.frames, strict=True)
    if len(set(files)) == 1:  # of a file with several frames, which are in its own order there
        frames[list(numbers)] = frames.copy()
        files = files[:1]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=task[:64], version=version(_MAKER), family=codes.Code("123110", "DCM", "Artificial Intelligence")
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=index,
            segment_label=name[:64],
            segmented_property_category=codes.Code("91723000", "SCT", "Anatomical structure"),
            segmented_property_type=codes.Code(str(index), "99UMEDPT", name[:64]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*colour(index)),
        )
        for index, name in enumerate(classes)
        if index
    ]
    try:
        made: Any = highdicom.seg.Segmentation(
            source_images=[pydicom.dcmread(file) for file in files],
            pixel_array=frames,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=version(_MAKER),
            device_serial_number="0",
            series_description=task[:64],
            omit_empty_frames=bool(frames.any()),  # one frame there must be
        )
    except Exception as error:  # highdicom and pydicom raise many kinds
        raise ValueError(
            f"{volume.path}: no DICOM segmentation can be made of its mask ({type(error).__name__}: {error}). Export "
            "the series as it was acquired, or leave --dicomseg out: the NIfTI file has the mask."
        ) from error
    with atomic_write(path) as unfinished:
        made.save_as(unfinished)
