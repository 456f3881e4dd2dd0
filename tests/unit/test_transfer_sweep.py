"""The protocol on small data: every label type and mode, nothing twice, nothing learnt from the test part."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, MemoryReader, spec_of

from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.tasks import Classification
from umedpt_lightning.transfer import evaluation, sweep
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result, grid
from umedpt_lightning.transfer.embeddings import embeddings
from umedpt_lightning.transfer.evaluation import predict_part
from umedpt_lightning.transfer.finetune import FineTuning, set_head
from umedpt_lightning.transfer.probe import linear_probe
from umedpt_lightning.transfer.protocol import Protocol
from umedpt_lightning.transfer.sources import TimmSource
from umedpt_lightning.transfer.sweep import Sweep, baseline_score
from umedpt_lightning.types import IGNORE_INDEX

EMBEDDING = ("class", "multilabel", "regression")
SHORT = FineTuning(steps=3, learning_rates=(1e-3,), evaluations=1)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 5)


class SomeAnswers:
    def arrays(self) -> dict[str, Any]:
        return {}


def protocol(kind: str, **options: Any) -> Protocol:
    parts = {part: MemoryReader(kind, size=16, seed=i) for i, part in enumerate(("train", "val", "test"))}
    given: dict[str, Any] = {"fractions": [0.5, 1.0], "seeds": 2, "finetuning": SHORT, "name": "new"} | options
    if kind not in EMBEDDING:
        given = {"modes": ["frozen"]} | given
    return Protocol(TaskData(**parts, batch_size=8), {"random": TimmSource("test_efficientnet_gn")}, **given)


def run(kind: str, folder: Path, **options: Any) -> dict[Cell, Result]:
    return Sweep(protocol(kind, **options), CellFolder(folder), ComputeOptions()).run()


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_type_is_measured_in_every_mode(kind: str, tmp_path: Path) -> None:
    modes = ["frozen", "knn", "finetune"] if kind in EMBEDDING else ["frozen", "finetune"]
    results = run(kind, tmp_path, modes=modes, seeds=1)
    assert list(results) == list(grid({"random": modes}, [0.5, 1.0], 1))
    for cell, result in results.items():
        assert result.labels == round(16 * cell.fraction)
        assert result.options
        assert ("k" in result.options) == (cell.mode == "knn")
        assert set(result.val) <= set(result.test)
        assert any(not math.isnan(value) for value in result.test.values())
        assert ("ece" in result.test) == (kind in ("class", "multilabel"))
        assert result.intervals.keys() == result.test.keys()
        assert all(low <= high for low, high in result.intervals.values() if not math.isnan(low))
        kept = CellFolder(tmp_path).answers(cell)
        assert kept is not None
        assert ("predictions" if kind in EMBEDDING else "answer_15") in kept


def test_samples_without_a_label_are_no_labels(tmp_path: Path) -> None:
    parts = protocol("class", fractions=[1.0], seeds=1, modes=["frozen"])
    reader = parts.part("train")
    reader.values[3:7] = [IGNORE_INDEX] * 4  # type: ignore[attr-defined]
    reader.targets = np.array(reader.values)  # type: ignore[attr-defined]
    (result,) = Sweep(parts, CellFolder(tmp_path), ComputeOptions()).run().values()
    assert result.labels == 12


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_an_image_is_measured_too(kind: str) -> None:
    metrics = baseline_score(protocol(kind, modes=["frozen"]))
    if kind == "class":
        assert metrics["auroc"] == 0.5
    assert metrics


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("class", tmp_path)
    measured: list[Cell] = []
    measure = Sweep._measure

    def counted(self: Sweep, cell: Cell, subset: Any) -> Any:
        measured.append(cell)
        return measure(self, cell, subset)

    monkeypatch.setattr(Sweep, "_measure", counted)
    again = run("class", tmp_path)
    assert not measured
    assert json.dumps([vars(r) for r in again.values()]) == json.dumps(
        [vars(r) | {"intervals": {k: list(v) for k, v in r.intervals.items()}} for r in first.values()]
    )
    lost = Cell("random", "knn", 0.5, 1)
    (tmp_path / "random" / "knn" / "0.5_1.json").unlink()
    (tmp_path / "random" / "frozen" / "1_0.json").write_text("{")
    run("class", tmp_path, fractions=[0.25, 0.5, 1.0])
    new = [Cell("random", mode, 0.25, seed) for mode in ("frozen", "knn") for seed in (0, 1)]
    assert set(measured) == {lost, Cell("random", "frozen", 1.0, 0), *new}


def test_other_weights_data_or_options_are_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Cell] = []
    monkeypatch.setattr(
        Sweep, "_measure", lambda self, cell, subset: (measured.append(cell) or Result(1, {}, {}, {}), SomeAnswers())
    )
    base = {"fractions": [1.0], "seeds": 1, "modes": ["frozen", "finetune"]}
    folder = CellFolder(tmp_path)

    def again(changed: Protocol, **options: str) -> list[str]:
        measured.clear()
        Sweep(changed, folder, ComputeOptions(), **options).run()
        return [cell.mode for cell in measured]

    assert again(protocol("class", **base)) == ["frozen", "finetune"]
    assert again(protocol("class", **base)) == []
    assert again(protocol("class", **base), training="other") == ["finetune"]
    assert again(protocol("class", **base), training="other", head="other") == ["frozen", "finetune"]
    changed = {what: protocol("class", **base) for what in ("size", "labels", "weights")}
    changed["size"].data.size = 64
    changed["labels"].data.test.values[0] += 1  # type: ignore[union-attr]
    changed["weights"].methods["random"] = TimmSource("test_convnext2")
    for other in changed.values():
        again(protocol("class", **base))
        assert again(protocol("class", **base)) == []
        assert again(other) == ["frozen", "finetune"]


def test_processes_share_the_cells_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Cell] = []
    folder, first = CellFolder(tmp_path), Cell("random", "frozen", 0.5, 0)
    with folder.claim(first, wait=False) as mine, folder.claim(first, wait=False) as also_mine:
        assert (mine, also_mine) == (True, False)

    def elsewhere(self: Sweep, cell: Cell, subset: Any) -> Any:
        if not measured:  # another process is at the second cell and finishes it
            second = Cell("random", "knn", 0.5, 0)
            claimed.enter_context(folder.claim(second, wait=False))
            folder.write(second, self._key(second), Result(99, {}, {}, {}), {})
        measured.append(cell)
        return Result(1, {}, {}, {}), SomeAnswers()

    monkeypatch.setattr(Sweep, "_measure", elsewhere)
    with ExitStack() as claimed:
        results = run("class", tmp_path, fractions=[0.5], seeds=1)
    assert measured == [first]
    assert [result.labels for result in results.values()] == [1, 99]


@pytest.mark.parametrize("mode", ["frozen", "knn", "finetune"])
def test_nothing_is_chosen_on_the_test_part(mode: str, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        changed = protocol("class", modes=[mode], fractions=[0.5], seeds=1)
        changed.data.test = MemoryReader("class", size=16, seed=7 + number)
        results.append(next(iter(Sweep(changed, CellFolder(tmp_path / str(number)), ComputeOptions()).run().values())))
    assert results[0].options == results[1].options
    assert results[0].val == results[1].val
    assert results[0].test != results[1].test


def test_the_test_part_is_read_once_a_fine_tuned_cell_and_the_val_part_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plan = protocol("mask", modes=["finetune"], fractions=[1.0], seeds=1)
    test = plan.data.test
    original = MemoryReader.__getitem__

    def watched(self: MemoryReader, index: int) -> Any:
        if self is test:
            read.append(index)
        return original(self, index)

    monkeypatch.setattr(MemoryReader, "__getitem__", watched)
    Sweep(plan, CellFolder(tmp_path), ComputeOptions()).run()
    assert sorted(read) == list(range(16))


@pytest.mark.parametrize("kind", EMBEDDING)
def test_fine_tuning_starts_from_the_probe(kind: str) -> None:
    plan = protocol(kind)
    model = plan.methods["random"].create_model("new", spec_of(kind), None, 0)
    parts = {part: embeddings(model, "new", plan.data, plan.part(part), ComputeOptions()) for part in ("train", "val")}
    probe = linear_probe(model.task("new"), parts["train"], parts["val"])
    set_head(model, "new", probe)
    found = predict_part(model, "new", plan.data, plan.part("val"), ComputeOptions())
    predictions, metrics = torch.from_numpy(found.arrays()["predictions"]), found.score()
    expected = model.task("new").predict(probe(parts["val"].features))
    torch.testing.assert_close(predictions, expected, atol=1e-3, rtol=1e-3)
    assert {key: metrics[key] for key in probe.val} == pytest.approx(probe.val, abs=1e-3, nan_ok=True)


def test_a_fine_tuned_cell_begins_with_the_probes_head(tmp_path: Path) -> None:
    still = FineTuning(steps=1, learning_rates=(1e-12,), evaluations=1)
    modes = {"modes": ["frozen", "finetune"], "fractions": [1.0], "seeds": 1}
    frozen, tuned = run("regression", tmp_path, finetuning=still, **modes).values()
    assert tuned.test == pytest.approx(frozen.test, abs=1e-2, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modes": ["knn"], "kind": "box"}, "knn needs a task whose head is a linear model"),
        ({"fractions": [1.5]}, "above 0 and at most 1"),
        ({"seeds": 0}, "seeds at least 1"),
        ({"name": "a.b"}, "cannot name a task"),
    ],
)
def test_what_cannot_be_is_told_at_once(change: dict[str, Any], message: str) -> None:
    kind = change.pop("kind", "class")
    with pytest.raises(ValueError, match=message):
        protocol(kind, **change)


@pytest.mark.parametrize(("kind", "mode"), [("class", "frozen"), ("class", "finetune"), ("mask", "frozen")])
def test_other_centres_are_measured_as_the_test_part_is(kind: str, mode: str, tmp_path: Path) -> None:
    here = protocol(kind, modes=[mode], fractions=[1.0], seeds=1)
    external = {"same": here.part("test"), "other": MemoryReader(kind, size=12, seed=5)}
    (result,) = run(kind, tmp_path, modes=[mode], fractions=[1.0], seeds=1, external=external).values()
    assert result.external["same"] == pytest.approx(result.test, nan_ok=True)
    assert result.external["other"] != result.external["same"]
    (without,) = run(kind, tmp_path / "without", modes=[mode], fractions=[1.0], seeds=1).values()
    assert (without.options, without.test) == (result.options, result.test), "nothing is chosen by them"


def test_other_centres_have_names_and_classes_that_fit() -> None:
    with pytest.raises(ValueError, match="external: val is a part of `data` already"):
        protocol("class", external={"val": MemoryReader("class")})
    with pytest.raises(ValueError, match="train and far parts do not fit"):
        protocol("class", external={"far": MemoryReader("class", channels=1)})


def test_each_method_can_have_modes_of_its_own(tmp_path: Path) -> None:
    methods = {"random": TimmSource("test_efficientnet_gn"), "other": TimmSource("test_convnext2")}
    parts = {part: MemoryReader("class", size=16, seed=i) for i, part in enumerate(("train", "val", "test"))}
    options: dict[str, Any] = {"fractions": [1.0], "seeds": 1, "finetuning": SHORT}
    modes: dict[str, Any] = {"random": ["frozen", "finetune"], "other": ["knn"]}
    results = Sweep(
        Protocol(TaskData(**parts), methods, modes=modes, **options), CellFolder(tmp_path), ComputeOptions()
    ).run()
    assert [(c.method, c.mode) for c in results] == [("random", "frozen"), ("random", "finetune"), ("other", "knn")]
    assert [c.method for c in grid({"random": [], "other": ["knn"]}, [1.0], 1)] == ["other"]
    with pytest.raises(ValueError, match="modes: some are for randm, but the methods are random, other"):
        Protocol(TaskData(**parts), methods, modes={"randm": ["frozen"]})


class Nested(Classification):
    """One number a class, but with an axis too many."""

    def forward(self, features: Any) -> Any:
        return super().forward(features)[:, None]


def test_a_head_for_which_no_linear_model_can_stand_in_is_told() -> None:
    told = r"Nested\.forward gives \(2, 1, 3\) for 2 embeddings, but .*linear_family 'classes' gives \(2, 3\)"
    with pytest.raises(ValueError, match=told):
        protocol("class", task=Nested)


def test_parts_that_are_missing_or_differ_are_told() -> None:
    parts = {"train": MemoryReader("class"), "val": MemoryReader("class")}
    with pytest.raises(ValueError, match=r"data\.test: .*measures on `test`"):
        Protocol(TaskData(**parts), {"random": TimmSource("test_efficientnet_gn")})
    with pytest.raises(ValueError, match="train and test parts do not fit"):
        Protocol(
            TaskData(**parts, test=MemoryReader("class", channels=1)), {"random": TimmSource("test_efficientnet_gn")}
        )
    with pytest.raises(ValueError, match="layer_decay above 0"):
        FineTuning(layer_decay=2)


@pytest.mark.parametrize("kind", KINDS)
def test_few_shots_are_measured_beside_fractions_with_as_few_to_choose_by(kind: str, tmp_path: Path) -> None:
    results = run(kind, tmp_path, fractions=[1.0], shots=[2, 4], seeds=1)
    shots = {cell.shots: result for cell, result in results.items() if cell.mode == "frozen"}
    # these readers do not know their targets without reading, so that shots cannot be counted for each class
    assert {number: result.labels for number, result in shots.items()} == {0: 16, 2: 2, 4: 4}
    assert (tmp_path / "random" / "frozen" / "2shots_0.json").is_file()


@pytest.mark.parametrize("shots", [[], [2]])
def test_no_test_label_has_a_part_in_what_is_chosen_or_answered(shots: list[int], tmp_path: Path) -> None:
    one, other = (protocol("class", fractions=[] if shots else [1.0], shots=shots, seeds=1) for _ in range(2))
    test = other.data.test
    assert isinstance(test, MemoryReader)
    test.values = [(value + 1) % len(test.spec.names) for value in test.values]
    folders = [CellFolder(tmp_path / name) for name in ("one", "other")]
    first, second = (Sweep(p, f, ComputeOptions()).run() for p, f in zip((one, other), folders, strict=True))
    for cell, result in first.items():
        assert (result.options, result.val) == (second[cell].options, second[cell].val)
        assert result.test != second[cell].test
        answers = [folder.answers(cell) for folder in folders]
        assert answers[0] is not None
        assert answers[1] is not None
        np.testing.assert_array_equal(answers[0]["predictions"], answers[1]["predictions"])


def test_the_test_part_is_embedded_after_all_has_been_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    embedded, probed = Sweep._embeddings, sweep.linear_probe
    monkeypatch.setattr(
        Sweep, "_embeddings", lambda self, cell, part: (order.append(part), embedded(self, cell, part))[1]
    )
    monkeypatch.setattr(sweep, "linear_probe", lambda *parts: (order.append("choose"), probed(*parts))[1])
    run("class", tmp_path, fractions=[], shots=[2], seeds=1, modes=["frozen"])
    assert order == ["train", "val", "choose", "test"]


def test_shots_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shots: \[0\] are numbers of labelled samples"):
        protocol("class", shots=[0])
    with pytest.raises(ValueError, match=r"fractions \(or shots\)"):
        protocol("class", fractions=[])
