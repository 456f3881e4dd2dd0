"""Dice of lung nodules over the probability from which a pixel counts as one, for docs/results/together.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from umedpt_lightning.data.readers import MaskFolders
from umedpt_lightning.model import MultiTaskModel

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
TASK, SIZE = "lung_nodule", 64
#: Patches of the half that chooses and of that which tells, as in configs/results/together/tasks/lung_nodule.yaml.
HALVES = {"choose": (90, 110), "tell": (110, 130)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the sets")
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    folder = options.root / "msd_lung_ct"
    reader = MaskFolders(folder / "images", folder / "masks", ["background", "nodule"])
    for run in options.runs:
        model = MultiTaskModel.from_pretrained(run / "checkpoints" / "last.ckpt").eval()
        for half, (start, stop) in HALVES.items():
            samples = [reader[i] for i in range(start, stop)]
            images = torch.from_numpy(np.stack([np.atleast_3d(sample.image) for sample in samples])).movedim(3, 1)
            truth = torch.from_numpy(np.stack([sample.target for sample in samples])) == 1
            resized = F.interpolate(images.float(), (SIZE, SIZE), mode="bilinear").round().to(images.dtype)
            with torch.no_grad():
                logits = F.interpolate(model(resized, TASK), truth.shape[1:], mode="bilinear")
            found = logits.softmax(1)[:, 1]
            dice = [float(2 * ((found > t) & truth).sum() / ((found > t).sum() + truth.sum())) for t in THRESHOLDS]
            print(f"{run.name} {half}: " + ", ".join(f"{d:.3f} at {t}" for d, t in zip(dice, THRESHOLDS, strict=True)))


if __name__ == "__main__":
    main()
