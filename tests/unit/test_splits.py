"""Splits: complete, disjoint, groups whole, labels even, and what is said where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from reader_samples import PARTS, image, manifest, mask, mask_folders, medmnist, table, volume_folders, volumes

from umedpt_lightning.data.check import check
from umedpt_lightning.data.readers import (
    Centres,
    FileSplit,
    ManifestClasses,
    ManifestLabels,
    ManifestMasks,
    ManifestNumbers,
    MaskFolders,
    MedMNIST,
    Reader,
    Split,
    Subset,
    Table,
    VolumeClasses,
    VolumeMasks,
    VolumeNumbers,
)
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.types import ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, Sample, TaskSpec

FRACTIONS = (0.7, 0.15, 0.15)
SIDES = ("train", "val", "test")


class Whole(Reader):
    """Samples without images."""

    def __init__(self, spec: TaskSpec, targets: np.ndarray | None, names: list[str], groups: list[str] | None) -> None:
        self.spec, self.targets, self.names = spec, targets, names
        self.of = None if groups is None else np.array(groups)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        target = 0 if self.targets is None else self.targets[index]
        return Sample(np.zeros((2, 2, 1), np.uint8), target, self.name(index))

    def name(self, index: int) -> str:
        return self.names[self._at(index)]

    @property
    def groups(self) -> np.ndarray | None:
        return self.of


def whole(seed: int, kind: str = "class", grouped: bool = False) -> Whole:
    """Uneven classes; groups of uneven size, whose samples are of few classes."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(60, 400))
    shares = np.array([0.6, 0.25, 0.1, 0.05])
    names = [f"/data/{number:04}.png" for number in rng.permutation(size)]
    groups = np.sort(rng.integers(0, size // 3, size)) if grouped else None
    likely = rng.dirichlet(4 * shares, size // 3) if grouped else None
    labels = np.array(
        [rng.choice(4, p=shares if likely is None or groups is None else likely[groups[i]]) for i in range(size)]
    )
    labels[:40] = np.arange(40) % 4
    targets: dict[str, tuple[TaskSpec, np.ndarray | None]] = {
        "class": (ClassSpec(channels=1, classes=tuple("abcd")), labels),
        "labels": (
            MultilabelSpec(channels=1, labels=tuple("abcd")),
            np.where(rng.random((size, 4)) < 0.1, np.nan, rng.random((size, 4)) < shares).astype(np.float32),
        ),
        "numbers": (
            RegressionSpec(channels=1, quantities=("z",), units=("mm",)),
            np.where(rng.random((size, 1)) < 0.1, np.nan, rng.lognormal(size=(size, 1))).astype(np.float32),
        ),
        "mask": (MaskSpec(channels=1, classes=("a", "b")), None),
    }
    ids = None if groups is None else [f"patient {group}" for group in groups]
    return Whole(*targets[kind], names, ids)


def split(reader: Reader, **options: object) -> dict[str, Split]:
    return {part: Split(reader, part, **options) for part in SIDES}


def names(reader: Reader) -> list[str]:
    return [reader.name(i) for i in range(len(reader))]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", ["class", "labels", "numbers", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_parts_are_disjoint_complete_of_their_share_and_keep_groups(kind: str, grouped: bool, seed: int) -> None:
    reader = whole(seed, kind, grouped)
    parts = split(reader, seed=seed)
    assert sorted(name for part in parts.values() for name in names(part)) == sorted(reader.names)
    largest = 1
    if grouped:
        found = [set(part.groups.tolist()) for part in parts.values()]
        assert sum(map(len, found)) == len(set().union(*found))
        largest = np.unique(reader.of, return_counts=True)[1].max()
    for part, fraction in zip(parts.values(), FRACTIONS, strict=True):
        assert abs(len(part) - fraction * len(reader)) <= 2 * largest + 1


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_classes_have_their_share_in_every_part(grouped: bool, seed: int) -> None:
    reader = whole(seed, "class", grouped)
    for part, fraction in zip(split(reader).values(), FRACTIONS, strict=True):
        for label in range(4):
            of_label = reader.targets == label
            largest = np.unique(reader.of[of_label], return_counts=True)[1].max() if grouped else 1
            expected = fraction * of_label.sum()
            assert part.spec.counts[label] > 0
            assert abs(part.spec.counts[label] - expected) <= largest + 1


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_labels_and_numbers_are_more_even_than_by_chance(kind: str) -> None:
    def unevenness(reader: Whole, rows: list[np.ndarray]) -> float:
        values = reader.targets
        if kind == "numbers":
            values = (values > np.nanmedian(values)) + np.where(np.isnan(values), np.nan, 0)
        return sum(float(np.abs(np.nanmean(values[r], 0) - np.nanmean(values, 0)).sum()) for r in rows)

    ours, chance = [], []
    for seed in range(6):
        reader = whole(seed, kind)
        row_of = {name: i for i, name in enumerate(reader.names)}
        rows = [np.array([row_of[name] for name in names(part)]) for part in split(reader).values()]
        ours.append(unevenness(reader, rows))
        order = np.random.default_rng(seed).permutation(len(reader))
        chance.append(unevenness(reader, np.split(order, np.cumsum([len(r) for r in rows])[:2])))
    assert np.mean(ours) < 0.5 * np.mean(chance)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_split_depends_on_the_seed_and_not_on_the_order(grouped: bool) -> None:
    reader = whole(1, grouped=grouped)
    order = np.random.default_rng(5).permutation(len(reader))
    groups = None if reader.of is None else reader.of[order].tolist()
    turned = Whole(reader.spec, reader.targets[order], [reader.names[i] for i in order], groups)
    for part, again in zip(split(reader).values(), split(turned).values(), strict=True):
        assert set(names(part)) == set(names(again))
        assert part.spec.counts == again.spec.counts
    assert set(names(split(reader, seed=1)["val"])) != set(names(split(reader)["val"]))


def test_the_least_that_fills_three_parts() -> None:
    spec = ClassSpec(channels=1, classes=("a", "b"))
    six = Whole(spec, np.array([0, 0, 0, 1, 1, 1]), [f"{i}.png" for i in range(6)], None)
    assert [part.spec.counts for part in split(six).values()] == [(1, 1)] * 3
    five = Whole(spec, np.array([0, 0, 0, 1, 1]), [f"{i}.png" for i in range(5)], None)
    with pytest.raises(ValueError, match=r"leaves (val|test) without class 'b': 2 in 2 groups .* for 3 parts\. Write"):
        split(five)
    assert [Split(five, part, (0.6, 0.4, 0)).spec.counts[1] for part in ("train", "val")] == [1, 1]
    pair = Whole(MaskSpec(channels=1, classes=("x",)), None, ["a", "b", "c"], ["p", "p", "q"])
    with pytest.raises(ValueError, match=r"leaves (val|test) without samples: 3 in 2 groups"):
        split(pair)
    assert {len(Split(pair, part, (0.5, 0, 0.5))) for part in ("train", "test")} == {1, 2}


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.2, -0.2, 0.0), (0.6, 0.4, 0.0), (0.0, 0.0, 0.0)])
def test_fractions_that_cannot_be_used_are_named(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"fractions are \[.*that of test above 0"):
        Split(whole(0), "test", fractions)


def test_groups_come_from_columns_names_and_volumes(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    expected = [f"train{i // 2}" for i in range(PARTS["train"])]
    readers: list[Reader] = [
        ManifestClasses(Table(file, group="patient"), "train"),
        ManifestLabels(Table(file, group="patient"), "train", ["mass"]),
        ManifestNumbers(Table(file, group="patient"), "train", {"z": "mm"}),
        ManifestMasks(Table(file, group="patient"), "train", ["background", "nodule"]),
    ]
    for reader in readers:
        assert reader.groups.tolist() == expected
        assert Subset(reader, 1, 3).groups.tolist() == expected[1:3]
    assert ManifestClasses(file, "train").groups is None
    folders = volume_folders(tmp_path / "v", "train")
    assert [Path(group).name for group in folders.groups] == ["0.nii"] * 3 + ["1.nii"] * 3

    everything = ManifestClasses(file, None)
    part = Split(everything, "train", (0.5, 0.5, 0), group=r"/(train|val)\d")
    assert len(set(part.groups)) == 1
    assert len(part) in PARTS.values()
    for group, match in ((r"train(\d)", "not found in 4 names.*val0"), ("(", "no regular"), ("x", "one pair")):
        with pytest.raises(ValueError, match=match):
            Split(everything, "train", group=group)


def test_all_slices_of_a_patient_with_several_volumes_are_one_group(tmp_path: Path) -> None:
    file = volumes(tmp_path)
    lines = file.read_text().split()
    patients = ["patient", "p", "q", "q", "p"]  # each has volumes of both classes
    (tmp_path / "t.csv").write_text("\n".join(f"{line},{who}" for line, who in zip(lines, patients, strict=True)))
    expected = np.repeat(patients[1:], 3).tolist()
    readers: list[Reader] = [
        VolumeClasses(Table(tmp_path / "t.csv", group="patient"), None),
        VolumeNumbers(Table(tmp_path / "t.csv", group="patient"), None, {"z": "mm"}),
        VolumeMasks(Table(tmp_path / "t.csv", group="patient"), None, ["background", "bright"]),
    ]
    for reader in readers:
        assert reader.groups.tolist() == expected
    halves = [Split(readers[0], part, (0.5, 0.5, 0)) for part in ("train", "val")]
    assert [len(set(half.groups)) for half in halves] == [1, 1]
    by_volume = VolumeClasses(file, "train")
    assert [Path(group).name for group in by_volume.groups] == ["0.nii"] * 3 + ["1.nii"] * 3


def test_a_split_is_made_from_a_config(tmp_path: Path) -> None:
    table = {"class_path": "ManifestClasses", "init_args": {"table": str(manifest(tmp_path)), "split": None}}
    options = {"reader": table, "fractions": [0.5, 0.5, 0], "group": r"/(\w+)\.png"}
    parser = ArgumentParser()
    parser.add_argument("--it", type=TaskData)
    parts = {part: {"class_path": "Split", "init_args": options | {"part": part}} for part in ("train", "val")}
    task = parser.instantiate_classes(parser.parse_object({"it": parts})).it
    assert [len(reader) for reader in task.readers.values()] == [5, 5]


def test_an_empty_group_is_an_error(tmp_path: Path) -> None:
    rows = [{"path": image(tmp_path / "a.png").name, "label": "x", "patient": ""}]
    with pytest.raises(ValueError, match=r"t\.csv line 2: patient is empty\. Name the group"):
        ManifestClasses(Table(table(tmp_path / "t.csv", rows), group="patient"), None)


# by a file


def test_a_file_names_samples_as_shortly_as_is_clear(tmp_path: Path) -> None:
    for folder in ("p1", "p2"):
        for name in ("a", "b.1"):
            image(tmp_path / "c" / folder / f"{name}.png")
    reader = mask_folders(tmp_path, "train")
    medical = MedMNIST(medmnist(tmp_path / "x.npz"), "train")
    folders = volume_folders(tmp_path / "v", "train")

    def chosen(reader: Reader, *rows: tuple[str, str]) -> list[int]:
        file = table(tmp_path / "s.csv", [{"name": name, "split": part} for name, part in rows])
        taken = names(FileSplit(reader, "val", file))
        return [i for i, name in enumerate(names(reader)) if name in taken]

    images = [(f"{i}", "train") for i in range(4)]
    assert chosen(reader, *images, ("images/4.jpg", "val"), ("5.jpg", "val"), ("other", "test")) == [4, 5]
    places = [(f"x.npz[train {i}]", "train") for i in range(5)]
    assert chosen(medical, *places, ("x.npz[train 5]", "val")) == [5]
    assert chosen(folders, ("0", "train"), ("1.nii", "val")) == [3, 4, 5]
    with pytest.raises(ValueError, match=r"s\.csv: 1 of 6 samples have no row.*5\.jpg"):
        chosen(reader, *images, ("4", "val"))
    with pytest.raises(ValueError, match=r"1 of 6 samples have no row, or rows of several parts.*4\.jpg"):
        chosen(reader, *images, ("4", "val"), ("4.jpg", "test"), ("5", "val"))
    with pytest.raises(ValueError, match=r"s\.csv line 3: 0 is in the parts 'train' and 'val'"):
        chosen(reader, ("0", "train"), ("0", "val"))
    with pytest.raises(ValueError, match=r"no sample is of the part 'val', only of \['train'\]"):
        chosen(reader, *images, ("4", "train"), ("5", "train"))
    with pytest.warns(UserWarning, match=r"s\.csv: 1 rows are left out, whose part is \['Val'\], not 'val'\. Write"):
        assert chosen(reader, *images, ("4", "val"), ("5", "Val")) == [4]


# leaks


def test_a_group_in_two_parts_is_an_error_with_two_samples(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    for i in range(12):
        image(tmp_path / f"{i}.png", i)
        part = "train" if i < 6 else "val"
        rows.append({"path": f"{i}.png", "label": "ab"[i % 2], "split": part, "patient": f"p{i // 2}"})
    rows[9]["patient"] = "p1"
    file = table(tmp_path / "t.csv", rows)
    parts = {part: ManifestClasses(Table(file, group="patient"), part) for part in ("train", "val")}
    (problem,) = check({"it": TaskData(**parts)}, 1).problems
    assert (problem.part, problem.kind, problem.severity) == ("val", "group", "error")
    assert problem.name == str(tmp_path / "9.png")
    assert problem.what == f"its group 'p1' is in train too, such as {tmp_path / '2.png'}"
    mended = ManifestClasses(Table(file, group="patient"), None)
    halves = {part: Split(mended, part, (0.5, 0.5, 0)) for part in ("train", "val")}
    assert not check({"it": TaskData(**halves)}, 1).problems


# centres


def of_centres() -> Reader:
    names = [f"sample {i}" for i in range(6)]
    return Whole(ClassSpec(channels=1, classes=("a",)), None, names, ["A-1", "A-1", "B-1", "B-2", "C-1", "A-2"])


def without_groups() -> Reader:
    return Whole(ClassSpec(channels=1, classes=("a",)), None, [f"sample {i}" for i in range(3)], None)


def names_of(reader: Reader) -> list[int]:
    return [int(reader.name(i)[-1]) for i in range(len(reader))]


def test_a_centre_is_left_out_or_alone_and_patients_stay_groups() -> None:
    alone, others = (Centres(of_centres(), centre=r"^([A-Z]+)-", **{how: ["A"]}) for how in ("only", "without"))
    assert names_of(alone) == [0, 1, 5]
    assert names_of(others) == [2, 3, 4]
    whole = Centres(of_centres(), only=["A-1", "C-1"])
    assert names_of(whole) == [0, 1, 4]
    assert list(others.groups) == ["B-1", "B-2", "C-1"]
    assert names_of(Centres(without_groups(), without=["1"], centre=r"sample (\d)")) == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes `only` or `without`"),
        ({"only": ["A-1"], "without": ["B-1"]}, "takes `only` or `without`"),
        ({"only": ["D"]}, "No sample is of the centre 'D', but of \\['A-1', 'A-2', 'B-1', 'B-2', 'C-1'\\]"),
        ({"without": ["A", "B", "C"], "centre": "^(.)"}, "Without \\['A', 'B', 'C'\\] there is no sample left"),
        ({"without": ["A"], "centre": "^."}, "centre is '\\^.', but it needs one pair of parentheses"),
    ],
)
def test_centres_that_cannot_be_chosen_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Centres(of_centres(), **options)
    with pytest.raises(ValueError, match="knows no groups"):
        Centres(without_groups(), only=["A"])


# real data


def test_slices_of_real_patients_stay_together(shared_data: Path) -> None:
    folder = shared_data / "msd_lung_ct"
    reader = MaskFolders(folder / "images", folder / "masks", ["background", "nodule"])
    parts = split(reader, group=r"(\d+)\d\.png$")  # ten in a row are of one patient
    patients = [set(part.groups) for part in parts.values()]
    assert [len(part) for part in parts.values()] == [90, 20, 20]
    assert [len(found) for found in patients] == [9, 2, 2]
    assert len(set().union(*patients)) == 13


def test_real_x_rays_keep_their_balance(shared_data: Path) -> None:
    reader = MedMNIST(shared_data / "pneumoniamnist.npz", "train", ["normal", "pneumonia"])
    for part in split(reader).values():
        assert abs(part.spec.counts[1] / len(part) - reader.spec.counts[1] / len(reader)) < 0.003


def test_masks_pair_whatever_part_they_are_in(tmp_path: Path) -> None:
    for i in range(9):
        image(tmp_path / "i" / f"{i}.png", i)
        mask(tmp_path / "m" / f"{i}.png", (i % 2,))
    parts = split(MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"]))
    for sample in (sample for part in parts.values() for sample in part):
        assert sample.target.max() == int(Path(sample.name).stem) % 2
