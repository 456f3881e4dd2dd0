"""The data check: every fault planted once in good data is found, named and nothing else is."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import KINDS, MemoryReader
from PIL import Image
from reader_samples import coco, coco_content, image, manifest, mask

from umedpt_lightning.cli import main
from umedpt_lightning.data.check import Problem, Report, check
from umedpt_lightning.data.check.problems import take_apart
from umedpt_lightning.data.check.sample import inspect_image
from umedpt_lightning.data.readers import ClassFolders, MaskFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.types import IGNORE_INDEX, BoxArrays, Sample

Edit = Callable[[Sample], Any]
SIZE = 30


class Edited(MemoryReader):
    """Good samples with names of their own, some of them spoilt."""

    def __init__(self, kind: str, part: str, edits: Mapping[int, Edit] | None = None, **options: Any) -> None:
        super().__init__(kind, SIZE, side=24, seed=["train", "val", "test"].index(part), **options)
        self.part, self.edits = part, edits or {}
        if kind == "multilabel":  # something is known of every sample
            self.values = [np.nan_to_num(value) if np.isnan(value).all() else value for value in self.values]

    def __getitem__(self, index: int) -> Sample:
        sample = replace(super().__getitem__(index), name=f"{self.part}/{index}.png")
        return self.edits[index](sample) if index in self.edits else sample


def run(kind: str, edits: Mapping[int, Edit] | None = None, part: str = "val", **options: Any) -> Report:
    """A check of a train and a val part, one of them with edits."""
    readers = {p: Edited(kind, p, edits if p == part else None) for p in ("train", "val")}
    return check({"it": TaskData(**readers, **options)}, workers=2)


def only(report: Report) -> Problem:
    assert len(report.problems) == 1, report.problems
    problem = report.problems[0]
    assert problem.task == "it"
    assert problem.mend.endswith(".")
    return problem


def pixel(value: float, dtype: type = np.float32) -> Edit:
    def edit(sample: Sample) -> Sample:
        changed = sample.image.astype(dtype)
        changed[0, 0, 0] = value
        return replace(sample, image=changed)

    return edit


def target(value: Any) -> Edit:
    return lambda sample: replace(sample, target=value(sample.target) if callable(value) else value)


def boxes(*rows: list[float], label: int = 1) -> BoxArrays:
    return BoxArrays(np.array(rows, np.float32), np.full(len(rows), label, np.int64))


def fail(error: BaseException) -> Edit:
    def edit(sample: Sample) -> Sample:
        raise error

    return edit


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = value
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_good_data_have_no_problem_and_every_sample_is_counted(kind: str) -> None:
    seen: list[int] = []
    readers = {part: Edited(kind, part) for part in ("train", "val", "test")}
    report = check({"it": TaskData(**readers)}, 2, seen.append)
    assert report.problems == []
    assert report.samples == sum(seen) == 3 * SIZE
    json.dumps(report.tasks, allow_nan=False)
    assert [part["readable"] for part in report.tasks["it"]["parts"].values()] == [SIZE] * 3


MESSAGE = ValueError("/data/a.png: 3 channels, but the first has 1. Write `channels: 3`.")
FAULTS = [
    # label type, edit, kind, what
    ("class", fail(MESSAGE), "unreadable", r"3 channels, but the first has 1"),
    ("class", fail(KeyError("x")), "unreadable", r"KeyError: 'x'"),
    ("class", fail(FileNotFoundError(2, "No such file", "b.png")), "unreadable", "No such file"),
    ("class", lambda sample: None, "unreadable", "gives a NoneType in place of a Sample"),
    ("class", lambda s: replace(s, image=s.image[..., :1]), "image", "1 channels, but the task has 3"),
    ("class", lambda s: replace(s, image=s.image[..., 0]), "image", r"\(H, W, C\), but this one is .*\(24, 24\)"),
    ("class", lambda s: replace(s, image=s.image.astype(np.int64)), "image", "this one is int64"),
    ("class", lambda s: replace(s, image=s.image.astype(np.uint16)), "image", "uint16, but most .* are uint8"),
    ("class", pixel(np.nan), "image", "0.06% of the values are NaN or infinite"),
    ("class", pixel(-np.inf), "image", "NaN or infinite"),
    ("class", lambda s: replace(s, image=s.image[:20]), "size", r"29 images are 24x24, this one is 20x24"),
    ("class", target(3), "label", "its class is 3, outside 0 to 2"),
    ("class", target(-2), "label", "its class is -2"),
    ("class", target(1.0), "label", "this one is a float"),
    ("multilabel", target(lambda t: with_value(t, 2)), "label", "n0 is 2"),
    ("multilabel", target(lambda t: t[:2]), "label", r"3 numbers \(n0, n1, n2\), but .*\(2,\)"),
    ("regression", target(lambda t: with_value(t, np.inf)), "label", "n0 is inf"),
    ("mask", target(lambda t: t[:12]), "mask", r"the mask is 12x24 \(HxW\), but the image is 24x24"),
    ("mask", target(lambda t: with_value(t, 9)), "mask", r"the mask holds \[9\], but its classes are 0 to 2"),
    ("mask", target(lambda t: with_value(t.astype(np.uint16), 900)), "mask", r"holds \[900\]"),
    ("mask", target(lambda t: t.astype(float)), "mask", "this one is float64"),
    ("box", target(boxes([1, 1, 5, 5], [3, 3, 3, 9])), "box", r"\[3\.0, 3\.0, 3\.0, 9\.0\] has no area"),
    ("box", target(boxes([1, 1, 5, 25])), "box", r"lies outside the image of 24x24"),
    ("box", target(boxes([-1, 1, 5, 5], [-2, 1, 5, 5])), "box", "lies outside .* one of 2 such boxes"),
    ("box", target(boxes([1, 1, np.nan, 5])), "box", "is not finite"),
    ("box", target(boxes([1, 1, 5, 5], label=3)), "label", "class 3, outside 0 to 2"),
    ("box", target(7), "box", "this one is a int"),
]


@pytest.mark.parametrize(("label", "edit", "kind", "what"), FAULTS, ids=[f"{f[0]}-{f[3][:20]}" for f in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(label: str, edit: Edit, kind: str, what: str) -> None:
    problem = only(run(label, {17: edit}))
    assert (problem.part, problem.kind, problem.severity) == ("val", kind, "error")
    assert problem.name in ("val/17.png", "sample 17", "/data/a.png", "b.png")
    assert re.search(what, problem.what)


@pytest.mark.parametrize(
    ("label", "edit", "what"),
    [
        ("class", lambda s: replace(s, image=np.full_like(s.image, 7)), "every value is 7"),
        ("class", target(IGNORE_INDEX), "nothing of its target is known"),
        ("mask", target(lambda t: np.full_like(t, IGNORE_INDEX)), "nothing of its target"),
        ("regression", target(lambda t: t * np.nan), "nothing of its target"),
    ],
)
def test_what_may_be_meant_so_is_a_warning(label: str, edit: Edit, what: str) -> None:
    problem = only(run(label, {3: edit}))
    assert (problem.name, problem.severity) == ("val/3.png", "warning")
    assert what in problem.what


def test_sizes_may_differ_where_images_are_resized_or_alone() -> None:
    edit = {17: lambda s: replace(s, image=s.image[:20])}
    assert not run("class", edit, size=24).problems
    assert not run("class", edit, batch_size=1).problems
    assert "`size: [24, 24]`" in only(run("class", edit)).mend


def test_intensities_outside_the_value_range_are_one_warning_with_shares() -> None:
    def low(sample: Sample) -> Sample:
        return replace(sample, image=np.full_like(sample.image, 200) - sample.image // 2)

    reader = Edited("class", "train", {4: low})
    reader.spec = replace(reader.spec, value_range=(0, 254))
    problem = only(check({"it": TaskData(train=reader)}, 2))
    assert problem.severity == "warning"
    assert re.search(r"29 of 30 images have intensities outside .* 0 to 254 \(0 to 255\), 0\.43% of", problem.what)


def test_a_class_without_samples_is_an_error_in_train_only() -> None:
    # of three classes the last is turned into the first
    edits = {i: target(lambda t: t % 2) for i in range(SIZE)}
    train, val = only(run("class", edits, "train")), only(run("class", edits, "val"))
    assert (train.part, train.name, train.severity) == ("train", "'n2'", "error")
    assert re.search(r"no sample in train, but \d+ in val", train.what)
    assert (val.part, val.severity) == ("val", "warning")


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("Nevus", "nevus", "mole"), True),
        (("basal cell", "mole", "basal_cell"), True),
        (("1", "0", "1.0"), True),
        (("1e1", "0", "10"), True),
        (("grade 1+", "grade 1-", "grade 1"), False),
        (("T1", "T2", "T10"), False),
        (("-1", "1", "0"), False),
        (("a b", "ab", "b a"), False),
    ],
)
def test_classes_that_differ_in_spelling_alone(names: tuple[str, ...], alike: bool) -> None:
    readers = {part: Edited("class", part) for part in ("train", "val")}
    for reader in readers.values():
        reader.spec = replace(reader.spec, classes=names)
    report = check({"it": TaskData(**readers)}, workers=1)
    if alike:
        problem = only(report)
        assert (problem.kind, problem.severity) == ("class", "warning")
        assert sum(repr(name) in f"{problem.name} {problem.what}" for name in names) == 2
    else:
        assert not report.problems


def test_parts_that_say_different_things_of_themselves() -> None:
    val = Edited("class", "val")
    val.spec = replace(val.spec, classes=("n0", "n1", "other"))
    problem = only(check({"it": TaskData(train=Edited("class", "train"), val=val)}, 2))
    assert (problem.name, problem.kind) == ("data.tasks.it.val", "setup")
    assert "'other'" in problem.what


def test_equal_pixels_leak_between_parts_and_are_copies_within_one() -> None:
    train = Edited("class", "train")
    leak = only(run("class", {5: lambda s: replace(train[9], name=s.name)}))
    assert (leak.name, leak.severity) == ("val/5.png", "error")
    assert "its pixels are those of train/9.png in train" in leak.what
    copy = only(run("class", {5: lambda s: replace(train[9], name=s.name, target=s.target)}, "train"))
    assert (copy.name, copy.severity) == ("train/9.png", "warning")
    assert copy.what.startswith("its pixels are those of 5.png in train")
    assert ("another target" in copy.what) == (train[5].target != train[9].target)
    # the shape belongs to the pixels, and empty images are no copies of each other
    turned = run("class", {5: lambda s: replace(train[9], name=s.name, image=train[9].image.reshape(12, 48, 3))})
    assert not [p for p in turned.problems if p.kind == "duplicate"]
    blank = {i: lambda s: replace(s, image=s.image * 0) for i in (1, 2)}
    assert [p.kind for p in run("class", blank).problems] == ["intensity"] * 2


def test_large_images_that_differ_in_one_value_are_no_copies() -> None:
    spec = MemoryReader("class").spec
    base = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)  # more than a block, and a rest
    others = [with_value(base.ravel()[::-1], 1).reshape(base.shape), base[:, ::-1], base.astype(np.uint16)]
    for place in (0, 7, 40_000, base.size - 1):
        changed = base.copy()
        changed.flat[place] ^= 128
        others.append(changed)
    digests = [inspect_image(image, spec)[1].digest for image in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert inspect_image(base.copy(), spec)[1].digest == digests[0]


def test_one_file_in_two_parts_is_a_leak() -> None:
    problem = only(run("class", {5: lambda s: replace(s, name="train/3.png")}))
    assert (problem.part, problem.name, problem.what) == (
        "val",
        "train/3.png",
        "it is in train too, with another target",
    )


def test_the_pool_outlives_processes_that_die() -> None:
    report = run("class", {0: lambda s: os._exit(3), 20: lambda s: os.kill(os.getpid(), signal.SIGKILL)})
    first, second = report.problems
    assert (first.name, second.name) == ("sample 0", "sample 20")
    assert "ended with exit code 3" in first.what
    assert "ended by signal SIGKILL" in second.what
    assert "--workers" in second.mend
    assert report.tasks["it"]["parts"]["val"]["readable"] == SIZE - 2


def test_findings_do_not_depend_on_the_number_of_workers() -> None:
    edits = {i: fail(ValueError(f"/data/{i}.png: broken. Mend it.")) for i in (3, 9, 21)}
    readers = {"it": TaskData(train=Edited("box", "train", edits), val=Edited("box", "val"))}
    results = [check(readers, workers) for workers in (1, 3)]
    assert results[0].problems == results[1].problems
    assert [p.name for p in results[0].problems] == ["/data/3.png", "/data/9.png", "/data/21.png"]


def test_messages_of_readers_are_taken_apart() -> None:
    error = ValueError("a b/c.png: not an image (5 bytes; OSError: cut. off). Save it again as PNG. Or so.")
    expected = ("a b/c.png", "not an image (5 bytes; OSError: cut. off)", "Save it again as PNG. Or so.")
    assert take_apart(error, "sample 1", "Mend.") == expected
    assert take_apart(ValueError("odd: thing"), "sample 1", "Mend.") == ("sample 1", "odd: thing", "Mend.")


def test_broken_files_on_disk_are_named_with_their_mend(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)).save(
            image(tmp_path / "a" / f"{i}.jpg")
        )
        image(tmp_path / "i" / f"{i}.png", seed=i)
        mask(tmp_path / "m" / f"{i}.png", shape=(12, 16) if i else (16, 12))
    cut = tmp_path / "a" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    tasks = {
        "it": TaskData(train=ClassFolders(tmp_path, classes=["a", "i", "m"], channels=3), size=8),
        "masks": TaskData(train=MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])),
    }
    found = {(p.task, Path(p.name).name): p for p in check(tasks, 2).problems if p.kind == "unreadable"}
    assert found.keys() == {("it", "2.jpg"), ("masks", "0.png")}
    assert "not an image that can be read (900 bytes" in found["it", "2.jpg"].what
    assert found["it", "2.jpg"].mend.startswith("Save it again as PNG")
    assert "the mask is 16x12 (HxW)" in found["masks", "0.png"].what


# the command


def write(folder: Path, tasks: dict[str, Any], **more: Any) -> Path:
    file = folder / "config.yaml"
    small = {"detection_decoder": {"class_path": "DetectionDecoder", "init_args": {"finest": 1}}}  # as the boxes are
    content = {"root": str(folder), "trainer": {"max_epochs": "ignored"}, "model": small, **more, "data": tasks}
    file.write_text(yaml.safe_dump(content))
    return file


def boxes_part(folder: str) -> dict[str, Any]:
    options = {"images": f"${{root}}/{folder}", "annotations": f"${{root}}/{folder}/boxes.json"}
    return {"class_path": "CocoBoxes", "init_args": options}


def call(*arguments: str | Path) -> int:
    try:
        main(["data", "check", "--workers", "2", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def good(folder: Path) -> dict[str, Any]:
    for part, seed in (("train", 0), ("val", 50)):
        (folder / part).mkdir()
        content = coco_content(part)
        coco(folder / part, content)
        for i, record in enumerate(content["images"]):
            image(folder / part / str(record["file_name"]), seed + i)
    return {"train": boxes_part("train"), "val": boxes_part("val"), "batch_size": 2}


def test_good_data_end_with_zero_and_their_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, {"tasks": {"cells": good(tmp_path)}, "num_workers": 7})
    assert call("--config", config, "--json", tmp_path / "out" / "check.json") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^0 problems, 0 warnings in 10 samples \(\d+\.\d s\)$", shown, re.MULTILINE)
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    assert content["problems"] == []
    train = content["tasks"]["cells"]["parts"]["train"]
    assert (train["samples"], train["dtypes"]) == (6, {"uint8": 6})
    assert train["height"] == {"min": 12, "median": 12, "max": 12}
    assert train["labels"]["boxes"] == {"red": 5, "white": 1}
    assert train["labels"]["per_image"] == {"min": 0, "median": 1, "max": 2}
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_one_bad_description_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = good(tmp_path)
    (tmp_path / "val" / "val2.png").write_bytes(b"no image")
    file = manifest(tmp_path)
    (tmp_path / "images" / "train0.png").unlink()
    table = {"class_path": "ManifestClasses", "init_args": {"table": str(file), "split": "train"}}
    tasks = {
        "cells": cells | {"size": "large"},
        "table": {"train": table, "val": table | {"init_args": {"table": str(file), "split": "vall"}}},
        "typo": {"train": {"class_path": "ManifestClases"}, "val": table | {"init_args": {"fiel": "x", "split": "y"}}},
        "empty": {"batch_sise": 2},
    }
    assert call("--config", write(tmp_path, {"tasks": tasks}), "--json", tmp_path / "c.json") == 1
    shown = capsys.readouterr().out
    problems = json.loads((tmp_path / "c.json").read_text())["problems"]
    found = {(p["task"], p["part"], p["kind"]): p for p in problems}
    assert found.keys() == {
        ("cells", "", "setup"),
        ("cells", "val", "unreadable"),
        ("table", "train", "setup"),
        ("table", "val", "setup"),
        ("typo", "train", "setup"),
        ("typo", "val", "setup"),
        ("empty", "", "setup"),
    }
    assert "size: large is given, but it must be int" in found["cells", "", "setup"]["what"]
    assert found["cells", "val", "unreadable"]["name"].endswith("val2.png")
    assert found["table", "train", "setup"]["name"].endswith("train0.png")
    assert "there is no such file" in found["table", "train", "setup"]["what"]
    assert "no row has 'vall'" in found["table", "val", "setup"]["what"]
    assert "'fiel' is not accepted" in found["typo", "val", "setup"]["what"]
    assert all(p["what"] in shown and p["mend"] in shown for p in problems)
    assert re.search(r"^8 problems, 0 warnings in 10 samples", shown, re.MULTILINE)


def test_warnings_alone_end_with_zero_and_many_of_a_kind_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(40):
        image(tmp_path / "a" / f"{i}.png", i)
        Image.new("L", (16, 12), i).save(image(tmp_path / "b" / f"{i}.png"))
    reader = {"class_path": "ClassFolders", "init_args": {"folder": "${root}", "classes": ["a", "b"]}}
    config = write(tmp_path, {"tasks": {"blank": {"train": reader}}}, root="nowhere")
    assert call("--config", config, "--root", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "blank train · intensity · 40 warnings" in shown
    assert "… and 20 more; `--json FILE` writes all" in shown
    assert shown.count("every value is") == 20


def test_later_configs_change_tasks_as_in_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, {"tasks": {"cells": good(tmp_path)}})
    second = tmp_path / "second.yaml"
    second.write_text("data: {tasks: {cells: {batch_size: 3}}}")
    assert call("--config", config, "--config", second) == 0
    assert "batches of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "match"),
    [("data: {tasks: [1]}", "must hold a mapping"), ("a: [", "not a YAML file"), ("model: {}", "no task is described")],
)
def test_configs_that_cannot_be_used_are_named(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit, match=rf"c\.yaml: .*{match}"):
        main(["data", "check", "--config", str(file)])
    with pytest.raises(SystemExit, match=r"none\.yaml"):
        main(["data", "check", "--config", "none.yaml"])
