"""Drawn stand-ins for images of each modality, each with a mask: on them one sees what augmentation does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 144
_SCALE = 4  # drawn this much larger and shrunk, for smooth edges

Image = NDArray[np.float32]
Mask = NDArray[np.uint8]
Colour = tuple[float, float, float]


def clouds(grain: float, seed: int) -> Image:
    """Smooth noise between about -1 and 1; `grain` is its size in pixels."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain, borderType=cv2.BORDER_REFLECT)
    return smooth / (2 * smooth.std())


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Image:
    """1 inside and 0 outside of an ellipse, in shares of the picture and degrees; smooth between."""
    canvas = np.zeros((SIDE * _SCALE, SIDE * _SCALE), np.float32)
    centre, axes = ((round(a * len(canvas)), round(b * len(canvas))) for a, b in ((x, y), (width / 2, height / 2)))
    cv2.ellipse(canvas, centre, axes, angle, 0, 360, 1.0, -1)
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def curve(points: NDArray[np.float64], width: float) -> Image:
    """1 on a line through points ``(N, 2)`` in shares of the picture, `width` in pixels."""
    canvas = np.zeros((SIDE * _SCALE, SIDE * _SCALE), np.float32)
    corners = np.rint(points * len(canvas)).astype(np.int32)
    cv2.polylines(canvas, [corners], False, 1.0, max(1, round(width * _SCALE)), cv2.LINE_AA)
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def paint(image: Image, where: Image, colour: Colour | float) -> Image:
    """The image ``(H, W, C)`` with a colour where `where` is 1."""
    return image + where[..., None] * (np.float32(colour) - image)


def grey(level: float = 0.0, channels: int = 1) -> Image:
    """An even image."""
    return np.full((SIDE, SIDE, channels), level, np.float32)


def xray() -> tuple[Image, Mask]:
    """A chest from the front; the lungs."""
    lungs = ellipse(0.3, 0.46, 0.28, 0.62, 6) + ellipse(0.7, 0.46, 0.28, 0.62, -6)
    image = paint(grey(0.05), ellipse(0.5, 0.65, 0.98, 1.4), 0.62)
    image = paint(image, lungs, 0.2)
    image = paint(image, ellipse(0.5, 0.5, 0.13, 1.2), 0.75)
    image = paint(image, ellipse(0.58, 0.6, 0.3, 0.36, 35), 0.72)
    t = np.linspace(0, np.pi, 30)
    for row in np.linspace(0.16, 0.72, 7):
        for side, centre in ((-1, 0.44), (1, 0.56)):
            rib = np.stack([centre + side * 0.4 * np.sin(t / 2), row + 0.09 * np.sin(t) * np.cos(t / 2) + 0.03 * t], 1)
            image += 0.1 * curve(rib, 2.5)[..., None]
    image = paint(image, ellipse(0.3, 0.86, 0.5, 0.3, 0), 0.7)
    image = paint(image, ellipse(0.72, 0.9, 0.5, 0.3, 0), 0.66)
    image = cv2.GaussianBlur(image, (0, 0), 1.2)[..., None] + 0.02 * clouds(2, 1)[..., None]
    above = np.clip(
        1 - ellipse(0.3, 0.86, 0.5, 0.3) - ellipse(0.72, 0.9, 0.5, 0.3) - ellipse(0.58, 0.6, 0.3, 0.36, 35), 0, 1
    )
    return image, (lungs * above > 0.5).astype(np.uint8)


def ct() -> tuple[Image, Mask]:
    """A belly from below; the liver."""
    body = ellipse(0.5, 0.52, 0.92, 0.7)
    liver = np.clip(ellipse(0.32, 0.45, 0.42, 0.42, 20) - ellipse(0.5, 0.74, 0.3, 0.3), 0, 1)
    image = paint(grey(0.02), body, 0.22)
    image = paint(image, ellipse(0.5, 0.5, 0.84, 0.6), 0.46)
    for x, y, width, height, level in (
        (0.66, 0.4, 0.26, 0.18, 0.52), (0.68, 0.38, 0.12, 0.07, 0.05), (0.33, 0.66, 0.12, 0.16, 0.64),
        (0.69, 0.64, 0.12, 0.17, 0.64), (0.8, 0.5, 0.1, 0.2, 0.58), (0.47, 0.58, 0.07, 0.07, 0.66),
        (0.5, 0.7, 0.15, 0.13, 0.92), (0.5, 0.8, 0.05, 0.12, 0.88),
    ):  # fmt: skip
        image = paint(image, ellipse(x, y, width, height), level)
    image = paint(image, liver, 0.57)
    image = paint(image, ellipse(0.29, 0.42, 0.07, 0.06), 0.47)
    image = cv2.GaussianBlur(image, (0, 0), 0.7)[..., None] + 0.012 * clouds(0.7, 2)[..., None]
    return image, (liver > 0.5).astype(np.uint8)


def mri() -> tuple[Image, Mask]:
    """A head from below; the ventricles."""
    image = paint(grey(), ellipse(0.5, 0.5, 0.78, 0.94), 0.75)
    image = paint(image, ellipse(0.5, 0.5, 0.72, 0.88), 0.05)
    brain = ellipse(0.5, 0.5, 0.66, 0.82)
    folds = 1 / (1 + np.exp(-9 * np.sin(5 * clouds(7, 3) + 2)))
    deep = cv2.GaussianBlur(ellipse(0.5, 0.5, 0.44, 0.58), (0, 0), 5)
    tissue = np.maximum(deep, folds.astype(np.float32))
    image = paint(image, brain, 0.45)
    image = paint(image, brain * tissue, 0.74)
    image = paint(image, curve(np.array([[0.5, 0.08], [0.5, 0.3]]), 1.5), 0.15)
    image = paint(image, curve(np.array([[0.5, 0.7], [0.5, 0.92]]), 1.5), 0.15)
    ventricles = np.clip(ellipse(0.44, 0.47, 0.07, 0.24, 12) + ellipse(0.56, 0.47, 0.07, 0.24, -12), 0, 1)
    for x in (0.37, 0.63):
        image = paint(image, ellipse(x, 0.5, 0.09, 0.18), 0.55)
    image = paint(image, ventricles, 0.12)
    image = cv2.GaussianBlur(image, (0, 0), 0.7)[..., None]
    image += 0.015 * clouds(0.6, 4)[..., None] * (image > 0.03)
    return image, (ventricles > 0.5).astype(np.uint8)


def fundus() -> tuple[Image, Mask]:
    """The back of a right eye; the optic disc."""
    eye = ellipse(0.5, 0.5, 0.94, 0.94)
    image = paint(grey(0, 3), eye, (0.72, 0.36, 0.14))
    image += 0.03 * clouds(5, 5)[..., None] * eye[..., None]
    image = paint(image, 0.5 * cv2.GaussianBlur(ellipse(0.42, 0.52, 0.2, 0.2), (0, 0), 6), (0.45, 0.16, 0.06))
    disc = ellipse(0.74, 0.48, 0.13, 0.15)
    image = paint(image, 0.9 * disc, (0.96, 0.76, 0.42))
    image = paint(image, 0.8 * ellipse(0.74, 0.48, 0.06, 0.07), (1.0, 0.9, 0.65))
    generator = np.random.default_rng(6)
    t = np.linspace(0, 1, 25)
    for bend, reach, width in (
        (0.3, -0.62, 3), (-0.28, -0.62, 3), (0.36, -0.4, 2), (-0.36, -0.42, 2), (0.2, 0.18, 2), (-0.2, 0.18, 2),
        (0.1, -0.3, 1.2), (-0.1, -0.3, 1.2),
    ):  # fmt: skip
        wiggle = 0.012 * np.sin(9 * t + generator.uniform(0, 6))
        arc = np.stack([0.74 + reach * t, 0.48 + bend * np.sin(np.pi * t * 0.75) + wiggle], 1)
        image = paint(image, 0.75 * curve(arc, width) * eye, (0.42, 0.08, 0.05))
        for start in (8, 14):
            branch = arc[start] + np.stack([-0.16 * t, np.sign(bend) * (0.22 * t - 0.08 * t**2)], 1)
            image = paint(image, 0.6 * curve(branch, 1) * eye, (0.45, 0.1, 0.06))
    image *= (1 - 0.35 * (((np.indices((SIDE, SIDE)) / SIDE - 0.5) ** 2).sum(0) / 0.25))[..., None]
    return cv2.GaussianBlur(image, (0, 0), 0.6), (disc > 0.5).astype(np.uint8)


def _cells(count: int, smallest: float, largest: float, seed: int) -> list[Image]:
    """Ellipses that do not touch."""
    generator = np.random.default_rng(seed)
    cells: list[Image] = []
    taken = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(20 * count):
        size = generator.uniform(smallest, largest)
        x, y = generator.uniform(0, 1, 2)
        cell = ellipse(x, y, size, size * generator.uniform(0.65, 1), generator.uniform(0, 180))
        if len(cells) < count and not (cv2.dilate(cell, np.ones((5, 5))) * taken).any():
            cells.append(cell)
            taken += cell
    return cells


def histology() -> tuple[Image, Mask]:
    """Tissue in haematoxylin and eosin; the nuclei."""
    image = paint(grey(0.95, 3), 0.75 + 0.25 * np.clip(clouds(6, 7), -1, 1), (0.9, 0.66, 0.8))
    fibres = np.abs(np.sin(6 * clouds(12, 8) + 3 * clouds(5, 9))) < 0.18
    image = paint(image, 0.5 * cv2.GaussianBlur(fibres.astype(np.float32), (0, 0), 0.8), (0.84, 0.46, 0.66))
    image = paint(image, ellipse(0.72, 0.3, 0.3, 0.24, 30), (0.96, 0.94, 0.96))
    nuclei = [cell * (1 - ellipse(0.72, 0.3, 0.3, 0.24, 30)) for cell in _cells(34, 0.07, 0.11, 10)]
    for cell in nuclei:
        image = paint(image, cell * (0.85 + 0.15 * np.clip(clouds(1.2, 11), -1, 1)), (0.36, 0.22, 0.55))
        image = paint(image, 0.3 * np.clip(cell - cv2.erode(cell, np.ones((3, 3))), 0, 1), (0.2, 0.1, 0.4))
    return cv2.GaussianBlur(image, (0, 0), 0.6) + 0.01 * clouds(0.7, 12)[..., None], (sum(nuclei) > 0.5).astype(
        np.uint8
    )


def fluorescence() -> tuple[Image, Mask]:
    """Cells with a red skeleton and blue nuclei; the nuclei."""
    nuclei = _cells(12, 0.13, 0.19, 13)
    around = sum(cv2.GaussianBlur(cv2.dilate(cell, np.ones((17, 17))), (0, 0), 5) for cell in nuclei)
    threads = np.abs(np.sin(9 * clouds(7, 14) + 2 * clouds(3, 15)))
    image = grey(0, 3)
    image[..., 0] = 0.03 + 0.6 * np.clip(around, 0, 1) * (1 - threads) ** 2
    image[..., 1] = 0.02 + 0.12 * np.clip(around, 0, 1)
    levels = np.random.default_rng(16).uniform(0.45, 0.85, len(nuclei))
    chromatin = 0.85 + 0.15 * clouds(1.5, 17)
    image[..., 2] = 0.03 + sum(level * cell for level, cell in zip(levels, nuclei, strict=True)) * chromatin
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + 0.012 * clouds(0.6, 18)[..., None]
    return image, (sum(nuclei) > 0.5).astype(np.uint8)


def dermatology() -> tuple[Image, Mask]:
    """A mole on skin with hairs; the mole."""
    image = grey(1, 3) * np.float32((0.86, 0.66, 0.56)) + 0.02 * clouds(3, 19)[..., None]
    ragged = ellipse(0.5, 0.52, 0.5, 0.4, 25)
    inside = cv2.GaussianBlur(ragged, (0, 0), 6) + 0.16 * clouds(6, 20) > 0.5
    lesion = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.5)
    image = paint(image, 0.9 * lesion, (0.5, 0.3, 0.22))
    image = paint(image, 0.6 * lesion * np.clip(clouds(8, 21), 0, 1), (0.22, 0.13, 0.12))
    net = np.abs(np.sin(9 * clouds(4, 22))) < 0.25
    image = paint(image, 0.25 * lesion * cv2.GaussianBlur(net.astype(np.float32), (0, 0), 0.7), (0.25, 0.14, 0.1))
    t = np.linspace(0, 1, 20)
    for x, y, angle, bend in ((0.05, 0.3, 0.4, 0.1), (0.2, 0.95, -0.7, -0.08), (0.55, 0.02, 1.2, 0.06)):
        hair = np.stack([x + 0.6 * t * np.cos(angle) + bend * t**2, y + 0.6 * t * np.sin(angle) - bend * t**2], 1)
        image = paint(image, 0.7 * curve(hair, 1), (0.2, 0.14, 0.1))
    return cv2.GaussianBlur(image, (0, 0), 0.6), (lesion > 0.5).astype(np.uint8)
