"""A small project on disk: five tasks, one of each label type, and a config."""

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

SIZE = 32
PARTS = {"train": 12, "val": 6, "test": 6}


def _write_images(root: Path) -> None:
    """Bright squares on noise: their place, size and number are what the tasks ask for."""
    generator = np.random.default_rng(0)
    rows = []
    coco: dict[str, dict[str, list[Any]]] = {}
    for part, count in PARTS.items():
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        coco[part] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
        for i in range(count):
            side = 6 if i % 2 else 12
            x, y = generator.integers(0, SIZE - side, 2).tolist()
            image = generator.integers(0, 80, (SIZE, SIZE), dtype=np.uint8)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            image[y : y + side, x : x + side] = 220
            mask[y : y + side, x : x + side] = 1
            Image.fromarray(image).save(root / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
            left = "" if i == 0 else int(x + side / 2 < SIZE / 2)
            rows.append([f"{part}/images/{i}.png", "small" if side == 6 else "large", left, int(y > 8), x, part])
            coco[part]["images"].append({"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE})
            box = {"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, side, side], "area": side**2, "iscrowd": 0}
            coco[part]["annotations"].append(box)
    for part, content in coco.items():
        (root / f"{part}.json").write_text(json.dumps(content))
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "left", "low", "x", "split"], *rows])


def _reader(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def _config() -> dict[str, Any]:
    def task(name: str, **arguments: Any) -> dict[str, Any]:
        parts = {
            part: _reader(
                name, **{k: v.replace("PART", part) if isinstance(v, str) else v for k, v in arguments.items()}
            )
            for part in PARTS
        }
        return {**parts, "batch_size": 4}

    manifest = {"table": "${root}/manifest.csv", "split": "PART"}
    return {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1},
        "pictures": {"samples": 1},  # drawing takes as long as such a training
        "map": {"every": 0},
        "model": {
            "encoder": {"class_path": "Encoder", "init_args": {"name": "test_efficientnet", "batch_norm": "group"}},
            "pixel_decoder": {"class_path": "PixelDecoder", "init_args": {"channels": 8}},
            "detection_decoder": {"class_path": "DetectionDecoder", "init_args": {"channels": 32}},
        },
        "data": {
            "num_workers": 0,
            "steps_per_epoch": 3,
            "tasks": {
                "sizes": task("ManifestClasses", table={"file": "${root}/manifest.csv"}, split="PART"),
                "places": task("ManifestLabels", labels=["left", "low"], **manifest),
                "position": task("ManifestNumbers", quantities={"x": "px"}, **manifest),
                "squares": task(
                    "MaskFolders",
                    images="${root}/PART/images",
                    masks="${root}/PART/masks",
                    classes=["background", "square"],
                ),
                "boxes": task("CocoBoxes", images="${root}/PART/images", annotations="${root}/PART.json"),
            },
        },
    }


def write_project(root: Path) -> Path:
    """Images and ``config.yaml`` in a folder."""
    _write_images(root)
    (root / "config.yaml").write_text(yaml.safe_dump(_config() | {"root": str(root)}))
    return root


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and ``config.yaml``; not to be written to."""
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def config(project: Path) -> dict[str, Any]:
    """The project's config, to be changed at will."""
    content: dict[str, Any] = yaml.safe_load((project / "config.yaml").read_text())
    return content


@contextmanager
def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that all processes of this test run share, one process at a time."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images; tests that need them are skipped where their packages are absent."""
    from umedpt_lightning.data.demo import prepare

    with shared_folder(tmp_path_factory, "demo") as folder:
        try:
            return prepare(folder / "demo")  # a finished set is left as it is
        except FileNotFoundError as error:
            pytest.skip(str(error))


def _print_schema(file: Path) -> None:
    from umedpt_lightning.cli import main

    with file.open("w") as stream, redirect_stdout(stream):
        main(["schema"])


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``umedpt schema`` prints where no optimizer was used before, of which there are subclasses then."""
    from benchmarks.processes import in_fresh_process

    with shared_folder(tmp_path_factory, "schema") as folder:
        if not (folder / "schema.json").is_file():
            in_fresh_process(_print_schema, folder / "schema.json")
        content: dict[str, Any] = json.loads((folder / "schema.json").read_text())
    return content
