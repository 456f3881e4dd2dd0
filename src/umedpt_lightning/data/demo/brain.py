"""The four tasks on brain slices: which tissue, which plane, which structures, how high."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.demo.volume import CUBE, PLANES, Volume, enlarge, shrink, slice_of, split_slices, write_image

TISSUES = ("background", "grey_matter", "white_matter")
STRUCTURES = ("much_grey_matter", "much_white_matter", "deep_csf", "bone", "brain_edge")

TISSUE_SIZE = 128  # px for 192 mm: 1.5 mm a pixel, so that the cortex is two pixels wide
PLANE_SIZE = 96  # px for 192 mm: 2 mm a pixel

POSITION_VIEW = 128  # mm, stored as 96 px: 1.33 mm a pixel
POSITION_SIZE = 96
#: First row of each view in an axial slice, whose first row is the foremost one.
POSITION_ROWS = {"front": 0, "middle": 32, "back": 64}
MIN_VIEW_BRAIN = 0.05

PATCH = 48  # mm, stored as 96 px: 0.5 mm a pixel
PATCH_SIZE = 96
PATCH_COLUMNS = (20, 44)  # the left half only: the right half is its mirror image
PATCH_ROWS = range(6, 140, 22)
#: A slice every so many mm gives patches.
PATCH_STEP = 2
MIN_PATCH_BRAIN = 0.4
#: A structure with less than the first share of a patch is absent, from the second share on it is shown, and between
#: them the label is left empty: it would be arbitrary.
SHOWN = {
    "much_grey_matter": (0.36, 0.44),
    "much_white_matter": (0.26, 0.34),
    "deep_csf": (0.006, 0.018),
    "bone": (0.001, 0.005),
    "brain_edge": (0.10, 0.15),
}
#: CT patches without bone are many and much alike: one in so many is kept.
KEEP_BONELESS = 3
CSF_HOUNSFIELD = 25
BONE_HOUNSFIELD = 80
#: Brain nearer to its edge than this, in mm, is blurred with the outside and not asked for CSF.
EDGE = 3


def make_brain_tissue(folder: Path, mri: Volume) -> None:
    """Segmentation: each pixel of an MRI slice is background, grey or white matter, whichever is likeliest."""
    for plane, axis in PLANES.items():
        for part, indices in split_slices(mri, plane).items():
            for index in indices:
                name = f"mri_{plane}_{mri.place(axis, index)}.png"
                image = shrink(slice_of(mri.voxels, plane, index), TISSUE_SIZE)
                write_image(folder / part / "images" / name, image)
                write_image(folder / part / "masks" / name, _tissue_mask(mri, plane, index))


def _tissue_mask(mri: Volume, plane: str, index: int) -> NDArray[np.uint8]:
    """Indices into `TISSUES`, ``(TISSUE_SIZE, TISSUE_SIZE)``: the probabilities are averaged first, then compared."""
    grey, white = (
        shrink(slice_of(mri.maps[name], plane, index).astype(np.float32), TISSUE_SIZE) for name in TISSUES[1:]
    )
    return np.asarray(np.argmax([255 - grey - white, grey, white], axis=0), dtype=np.uint8)


def make_slice_plane(folder: Path, volumes: list[Volume]) -> None:
    """Classification: modality and plane of a slice."""
    rows: list[list[str]] = []
    for volume in volumes:
        for plane, axis in PLANES.items():
            label = f"{volume.modality}_{plane}"
            # only half a brain gives sagittal slices; every second of the others keeps the classes equal
            step = 1 if plane == "sagittal" else 2
            for part, indices in split_slices(volume, plane).items():
                for index in indices[::step]:
                    path = f"images/{label}_{volume.place(axis, index)}.png"
                    write_image(folder / path, shrink(slice_of(volume.voxels, plane, index), PLANE_SIZE))
                    rows.append([path, label, part])
    _write_csv(folder / "manifest.csv", ["path", "label", "split"], rows)


def make_axial_position(folder: Path, mri: Volume) -> None:
    """Regression: the height of an axial MRI slice in MNI space, in mm, from a part of the slice.

    Slices of val and test that lie higher or lower than all training slices are left out: a head that has learnt
    heights does not extrapolate them.
    """
    rows: list[list[str]] = []
    axis = PLANES["axial"]
    left = (CUBE - POSITION_VIEW) // 2
    parts = split_slices(mri, "axial")
    lowest, highest = min(parts["train"]), max(parts["train"])
    for part, indices in parts.items():
        for index in indices:
            if not lowest <= index <= highest:
                continue
            whole = slice_of(mri.voxels, "axial", index)
            for view, top in POSITION_ROWS.items():
                shown = np.ascontiguousarray(whole[top : top + POSITION_VIEW, left : left + POSITION_VIEW])
                if (shown > 0).mean() < MIN_VIEW_BRAIN:
                    continue
                path = f"images/mri_axial_{mri.place(axis, index)}_{view}.png"
                write_image(folder / path, shrink(shown, POSITION_SIZE))
                rows.append([path, str(mri.origin[axis] + index), part])
    _write_csv(folder / "manifest.csv", ["path", "z", "split"], rows)


def make_brain_structures(folder: Path, volumes: list[Volume]) -> None:
    """Multi-label: what a patch of a coronal slice shows; an empty cell where the modality cannot tell."""
    rows: list[list[str]] = []
    for volume in volumes:
        for part, indices in split_slices(volume, "coronal").items():
            boneless = 0
            for path, image, shares in _patches(volume, indices[::PATCH_STEP]):
                if shares.get("bone", 1.0) < SHOWN["bone"][0]:
                    boneless += 1
                    if boneless % KEEP_BONELESS:
                        continue
                write_image(folder / path, enlarge(image, PATCH_SIZE))
                rows.append([path, *(_cell(shares, name) for name in STRUCTURES), part])
    _write_csv(folder / "manifest.csv", ["path", *STRUCTURES, "split"], rows)


def _cell(shares: dict[str, float], name: str) -> str:
    absent, shown = SHOWN[name]
    share = shares.get(name, absent)  # the modality cannot tell: neither absent nor shown
    return "1" if share >= shown else "0" if share < absent else ""


def _patches(volume: Volume, indices: list[int]) -> Iterator[tuple[str, NDArray[np.uint8], dict[str, float]]]:
    """The patches of some coronal slices: path, pixels ``(PATCH, PATCH)``, and the share of each known structure."""
    for index in indices:
        image = slice_of(volume.voxels, "coronal", index)
        structures = _structures(volume, index)
        for top in PATCH_ROWS:
            for left in PATCH_COLUMNS:
                window = (slice(top, top + PATCH), slice(left, left + PATCH))
                shares = {name: float(values[window].mean()) for name, values in structures.items()}
                if 1 - shares["brain_edge"] < MIN_PATCH_BRAIN:
                    continue
                # row 0 is the top one, so rows count against the third axis
                centre = ((1, index), (0, left + PATCH // 2), (2, CUBE - 1 - top - PATCH // 2))
                name = "_".join(volume.place(axis, position) for axis, position in centre)
                yield f"images/{volume.modality}_patch_{name}.png", np.ascontiguousarray(image[window]), shares


def _structures(volume: Volume, index: int) -> dict[str, NDArray[Any]]:
    """How much of each known structure is in each pixel of a coronal slice, 0 to 1, ``(CUBE, CUBE)``."""
    inside = slice_of(volume.inside, "coronal", index)
    deep = cv2.erode(inside.astype(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)) > 0
    maps = {name: slice_of(values, "coronal", index).astype(np.float32) for name, values in volume.maps.items()}
    known: dict[str, NDArray[Any]]
    if volume.modality == "ct":
        hounsfield = maps["hounsfield"]
        known = {"deep_csf": deep & (hounsfield < CSF_HOUNSFIELD), "bone": hounsfield > BONE_HOUNSFIELD}
    else:
        grey, white = maps["grey_matter"] / 255, maps["white_matter"] / 255
        known = {"much_grey_matter": grey, "much_white_matter": white, "deep_csf": deep & (grey + white < 0.5)}
    return {**known, "brain_edge": ~inside}


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
