"""Draws docs/pictures/augment_<preset>.png: what each preset does to a drawn image. python docs/make_pictures.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import phantoms
from PIL import Image

from umedpt_lightning.cli.data_preview import Row, draw_contact_sheet
from umedpt_lightning.data.loading.sampling import TaskStream
from umedpt_lightning.data.presets import PRESETS
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import MaskSpec, Sample

#: What the mask of each drawing shows.
MARKED = {
    "ct": "liver",
    "dermatology": "mole",
    "fluorescence": "nucleus",
    "fundus": "optic disc",
    "histology": "nucleus",
    "mri": "ventricle",
    "xray": "lung",
}
VERSIONS = 5


def draw(preset: str) -> Image.Image:
    """The drawing of a modality and some augmented versions of it."""
    image, mask = getattr(phantoms, preset)()
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    stored = Sample(pixels, mask, f"a drawing, augmented by the preset {preset}")
    spec = MaskSpec(channels=pixels.shape[-1], classes=("background", MARKED[preset]))
    transform, stream = Transform(augment=preset, value_range=spec.value_range), TaskStream(preset, 1, seed=0)
    versions = {f"pass {passed}": transform(stored, stream.key(passed, 0).seed) for passed in range(VERSIONS)}
    return draw_contact_sheet([Row(stored.name, stored, versions)], spec, preset)


def main() -> None:
    """Draws them all, in few colours so that they are small."""
    folder = Path(__file__).parent / "pictures"
    folder.mkdir(exist_ok=True)
    for preset in PRESETS:
        picture = draw(preset)
        picture = picture.resize((picture.width * 3 // 5, picture.height * 3 // 5), Image.Resampling.LANCZOS)
        picture.quantize(128, dither=Image.Dither.NONE).save(folder / f"augment_{preset}.png", optimize=True)


if __name__ == "__main__":
    main()
