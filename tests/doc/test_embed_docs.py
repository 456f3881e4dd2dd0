"""Every command and the Python block of the page on embeddings run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SMALL_PIXELS, small_encoder, spec_of

from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "embed.md").read_text(encoding="utf-8")


def _blocks(language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))


@pytest.fixture
def place(project: Path, tmp_path: Path) -> Path:
    """A working folder with a model and what the page embeds."""
    nibabel, tifffile = pytest.importorskip("nibabel"), pytest.importorskip("tifffile")
    pytest.importorskip("tiffslide")
    model = MultiTaskModel(small_encoder(), {"sizes": spec_of("class"), "other": spec_of("class")}, None, SMALL_PIXELS)
    model.save_pretrained(tmp_path / "models" / "first")
    shutil.copytree(project / "test" / "images", tmp_path / "images")
    (tmp_path / "table.csv").write_text("path,name,patient\nimages/0.png,a,x\nimages/1.png,b,x\n")
    generator = np.random.default_rng(0)
    voxels = generator.integers(-500, 500, (40, 3, 40), dtype=np.int16)
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "scan.nii.gz")
    pixels = generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for level, step in enumerate((1, 2)):
            writer.write(
                pixels[::step, ::step],
                tile=(64, 64),
                photometric="rgb",
                subfiletype=int(level > 0),
                resolution=(20_000 // step, 20_000 // step),  # 0.5 µm
                resolutionunit="CENTIMETER",
            )
    return tmp_path


def test_the_page_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(place)
    monkeypatch.setenv("UMEDPT_CACHE", str(place / "cache"))
    for line in _blocks("bash").splitlines():
        main(shlex.split(line)[1:])
    names: dict[str, Any] = {}
    exec(_blocks("python"), names)
    assert names["ids"] == [f"{i}.png" for i in range(6)]
    assert names["vectors"].shape == (6, 64)
    assert {file.name for file in place.glob("embeddings*")} == {"embeddings.parquet", "embeddings.parquet.json"}
    for name, ids in {
        "table": ["a,x", "b,x"],
        "slices": [f"scan.nii.gz#y={k},scan.nii.gz" for k in range(3)],
        "tiles": [f'"slide.tif#x={x},y={y}",slide.tif' for y in (0, 128) for x in (0, 128)],
    }.items():
        assert (place / f"{name}.npy.csv").read_text().splitlines()[1:] == ids
        assert len(np.load(place / f"{name}.npy")) == len(ids)
