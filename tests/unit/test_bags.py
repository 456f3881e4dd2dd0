"""Bags: their reader, their way into a batch, the block that pools them, and exact gradients in chunks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import MemoryReader, small_encoder, spec_of
from reader_samples import image, slides, table, volumes
from torch import Tensor, nn

from umedpt_lightning.blocks import BagBlock, BagTransformer, GatedAttention, MeanBag, Pyramid
from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.check import check
from umedpt_lightning.data.formats.columns import ClassColumn, NumberColumns, SurvivalColumns
from umedpt_lightning.data.loading.dataset import MultiTaskDataset, collate
from umedpt_lightning.data.loading.sampling import SampleKey, TaskStream
from umedpt_lightning.data.readers import Bags, ManifestClasses, SlideNumbers, Split, Table, VolumeNumbers
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import Bag, ClassSpec, Sample, TaskBatch
from umedpt_lightning.types import Bags as BagImages
from umedpt_lightning.types.bags import named_images

SIZES = {"p0": 1, "p1": 5, "p2": 12, "p3": 3}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of four patients, not in their order, each with its patient's class."""
    rows: list[dict[str, object]] = []
    for turn in range(max(SIZES.values())):
        for number, (patient, size) in enumerate(SIZES.items()):
            if turn < size:
                name = f"{patient}_{turn}.png"
                image(tmp_path / name, len(rows))
                rows.append({"path": name, "patient": patient, "label": "ab"[number % 2], "split": "train"})
    return table(tmp_path / "images.csv", rows)


def instances(file: Path) -> ManifestClasses:
    return ManifestClasses(Table(file, group="patient"), "train")


def patients(folder: Path, rows: list[dict[str, object]]) -> Table:
    return Table(table(folder / "patients.csv", rows), path="patient")


# the reader


def test_images_of_a_group_are_a_sample_with_their_class(images: Path) -> None:
    reader = Bags(instances(images), of="patient")
    assert [len(reader[i].instances) for i in range(len(reader))] == list(SIZES.values())
    assert [reader[i].target for i in range(len(reader))] == [0, 1, 0, 1]
    assert [Path(one.name).name for one in reader[3].instances] == ["p3_0.png", "p3_1.png", "p3_2.png"]
    assert isinstance(reader.spec, ClassSpec)
    assert (reader.spec.bag, reader.spec.counts) == ("patient", (2, 2))
    assert reader.groups.tolist() == [reader.name(i) for i in range(4)] == list(SIZES)


def test_bags_go_by_an_expression_too(images: Path) -> None:
    reader = Bags(ManifestClasses(images, "train"), group=r"(p\d)_")
    assert [len(reader[i].instances) for i in range(len(reader))] == list(SIZES.values())
    with pytest.raises(ValueError, match=r"knows no groups of its images.*Give its table a column of groups"):
        Bags(ManifestClasses(images, "train"))


@pytest.mark.parametrize(
    ("columns", "cells", "targets"),
    [
        (ClassColumn("y"), ["u", "v", "v", "u"], [0, 1, 1, 0]),
        (ClassColumn("y"), ["u", "", "v", "u"], [0, -1, 1, 0]),  # unlabelled, which no loss and no metric counts
        (NumberColumns({"y": "mm"}), [1, 2, "", 4], [[1], [2], [np.nan], [4]]),
        (SurvivalColumns("y", "e", "days"), [1, 2, 3, 4], [[1, 1], [2, 1], [3, 1], [4, 1]]),
    ],
)
def test_a_table_of_bags_says_what_is_known_of_them(
    images: Path, columns: Any, cells: list[Any], targets: list[Any]
) -> None:
    rows: list[dict[str, object]] = [
        {"patient": name, "y": cell, "e": 1} for name, cell in zip(SIZES, cells, strict=True)
    ]
    reader = Bags(instances(images), "patient", table=patients(images.parent, rows[::-1]), columns=columns)
    np.testing.assert_array_equal(reader.targets, targets)
    assert reader.spec.channels == 1
    np.testing.assert_array_equal(np.asarray(reader[1].target), targets[1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"p0": "a", "p1": "a"}, r"2 of 4 patients with images have no row: \['p2', 'p3'\]. Write one for each"),
        (
            {**dict.fromkeys(SIZES, "a"), " p1": "b"},
            r"line 6: it says something else of the patient 'p1' than .*line 3",
        ),
    ],
)
def test_a_bag_without_a_row_or_with_two_that_differ_is_named(images: Path, rows: dict[str, str], message: str) -> None:
    told = patients(images.parent, [{"patient": name, "y": cell} for name, cell in rows.items()])
    with pytest.raises(ValueError, match=message):
        Bags(instances(images), "patient", table=told, columns=ClassColumn("y", ["a", "b"]))


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("e", "0000", r"All 4 times of this part are censored"),
        ("e", "1021", r"line 4.*'2'"),
        ("t", ["1", "-2", "3", "4"], r"line 3.*-2"),
        ("t", ["1", "", "3", "4"], r"line 3: t is ''"),
    ],
)
def test_what_cannot_be_said_of_a_bag_is_told_with_its_row(images: Path, column: str, cells: Any, message: str) -> None:
    rows: list[dict[str, object]] = [{"patient": name, "t": 2, "e": 1} for name in SIZES]
    for row, cell in zip(rows, cells, strict=True):
        row[column] = cell
    columns = SurvivalColumns("t", "e", "days")
    with pytest.raises(ValueError, match=message):
        Bags(instances(images), "patient", table=patients(images.parent, rows), columns=columns)


def test_a_bag_with_an_image_that_cannot_be_read_is_replaced_where_bad_samples_are_skipped(images: Path) -> None:
    (images.parent / "p1_2.png").write_bytes(b"no image")
    readers = {"t": Bags(instances(images), "patient")}
    data = MultiTaskDataset(readers, {"t": Transform(8)}, on_bad_sample="skip", training=True)
    item = data[SampleKey("t", 1, 5)]
    assert item.sample.name == "p2"
    assert "p1_2.png" in item.bad_sample
    with pytest.raises(ValueError, match=r"Task 't': .*p1_2\.png"):
        MultiTaskDataset(readers, {"t": Transform(8)})[SampleKey("t", 1, 5)]


def test_a_second_row_that_says_the_same_does_no_harm(images: Path) -> None:
    told = patients(images.parent, [{"patient": name, "y": "a"} for name in [*SIZES, "p0"]])
    assert len(Bags(instances(images), table=told, columns=ClassColumn("y", ["a"]))) == 4


def test_images_of_a_bag_that_say_different_things_are_named(images: Path) -> None:
    images.write_text(images.read_text().replace("p2_3.png,p2,a", "p2_3.png,p2,b"))
    with pytest.raises(ValueError, match=r"p2_3.png: its target differs from that of .*p2_0.png.*same patient 'p2'"):
        Bags(instances(images), "patient")


def test_options_that_cannot_be_are_told(images: Path) -> None:
    reader = instances(images)
    with pytest.raises(ValueError, match="max_instances is 0, but at least one"):
        Bags(reader, max_instances=0)
    with pytest.raises(ValueError, match="needs `columns`"):
        Bags(reader, table=images)
    with pytest.raises(ValueError, match=r"gives bags \(bag\) already"):
        Bags(Bags(reader))
    masks = MemoryReader("mask")
    with pytest.raises(ValueError, match="Give a `table`"):
        Bags(masks, group=r"(sample)")


def test_training_draws_other_images_in_each_pass_and_evaluation_takes_all(images: Path) -> None:
    reader = Bags(instances(images), max_instances=4)
    stream = TaskStream("t", len(reader), 0)
    drawn = [[one.name for one in reader.draw(2, stream.key(passed, 2).seed).instances] for passed in range(6)]
    whole = [one.name for one in reader[2].instances]
    assert all(len(names) == 4 and names == sorted(names, key=whole.index) for names in drawn)
    assert len({tuple(names) for names in drawn}) > 3
    assert set().union(*drawn) > set(drawn[0])
    assert drawn[1] == [one.name for one in reader.draw(2, stream.key(1, 2).seed).instances]
    assert len(reader.draw(0, 1).instances) == 1
    for training, count in ((True, 4), (False, 12)):
        data = MultiTaskDataset({"t": reader}, {"t": Transform(8)}, training=training)
        found = data[SampleKey("t", 2, 5)].sample
        assert isinstance(found, Bag)
        assert len(found.instances) == count


def test_parts_and_caches_of_bags_draw_as_they_do(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    reader = Bags(instances(images), max_instances=2)
    part = Split(reader, "train", (0.5, 0.0, 0.5))
    kept = part.cached(partial(CachedReader, place="disk"))
    assert len(kept) == len(part) == 2
    for index in range(2):
        for draw in (lambda one, i=index: one.draw(i, 3), lambda one, i=index: one[i]):
            for _ in range(2):
                found, expected = draw(kept), draw(part)
                assert [one.name for one in found.instances] == [one.name for one in expected.instances]
                np.testing.assert_array_equal(found.instances[-1].image, expected.instances[-1].image)
    with pytest.raises(TypeError, match="a bag of images cannot be cached"):
        CachedReader(reader, "disk")[0]


def test_the_check_reads_all_images_and_names_bags_without_any(images: Path) -> None:
    rows: list[dict[str, object]] = [{"patient": name, "y": "ab"[i % 2]} for i, name in enumerate([*SIZES, "p9"])]
    told = patients(images.parent, rows)
    reader = Bags(instances(images), "patient", table=told, columns=ClassColumn("y", ["a", "b"]))
    (images.parent / "p2_7.png").write_bytes(b"no image")
    report = check({"t": TaskData(train=reader, size=8)}, workers=1)
    messages = [f"{one.name}: {one.what}" for one in report.problems]
    assert "p9: its target is known, but no image is of it" in messages
    assert any("p2_7.png" in message for message in messages)
    part = report.tasks["t"]["parts"]["train"]
    assert (part["samples"], part["readable"]) == (4, 3)
    assert part["images_a_patient"] == {"min": 1, "median": 3, "max": 5}


def test_a_patient_in_two_parts_is_found(images: Path) -> None:
    reader = Bags(instances(images), "patient")
    report = check({"t": TaskData(train=reader, val=reader, size=8)}, workers=1)
    assert sum(one.kind == "group" for one in report.problems) == 4


# batches


def bag_of(sizes: list[int], side: int = 32) -> TaskBatch:
    rng = np.random.default_rng(0)
    pictures = iter(rng.integers(0, 256, (sum(sizes), side, side, 3), np.uint8))
    return collate("t", [Bag.of([Sample(next(pictures), 0, "i") for _ in range(n)], n % 2, f"b{n}") for n in sizes])


def test_bags_of_different_sizes_are_a_batch_that_travels() -> None:
    batch = bag_of([2, 5, 1])
    assert isinstance(batch.images, BagImages)
    assert (len(batch), batch.images.sizes, batch.names) == (3, [2, 5, 1], ["b2", "b5", "b1"])
    assert batch.images.shape == (8, 3, 32, 32)
    moved = pickle.loads(pickle.dumps(batch)).to("cpu").to("meta")
    assert moved.images.sizes == [2, 5, 1]
    assert moved.images.device.type == "meta"
    assert batch.images[1].shape == (5, 3, 32, 32)


def test_each_image_of_a_bag_is_augmented_by_itself() -> None:
    import albumentations

    picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    bag = Bag.of([Sample(picture, 0, str(i)) for i in range(20)], 1, "b")
    transform = Transform(None, {"flip": albumentations.HorizontalFlip(p=0.5)})
    found = transform(bag, 3)
    assert isinstance(found, Bag)
    flipped = [not np.array_equal(one, picture) for one in found.images]
    assert 3 < sum(flipped) < 17
    assert flipped == [not np.array_equal(one, picture) for one in transform(bag, 3).images]  # type: ignore[union-attr]


# the blocks

every_block = pytest.mark.parametrize("block", [GatedAttention, MeanBag, BagTransformer])


@every_block
def test_a_block_pools_each_bag_by_itself_in_any_order(block: type[BagBlock]) -> None:
    torch.manual_seed(0)
    made = block([16], []).eval()
    found, sizes = torch.randn(9, 16), [3, 1, 5]
    together, attention = made(found, sizes)
    assert together.shape == (3, made.out_channels)
    for one, expected in zip(found.split(sizes), together, strict=True):
        torch.testing.assert_close(made(one.flip(0), [len(one)])[0][0], expected, atol=1e-5, rtol=1e-5)
    for weights, size in zip(attention, sizes, strict=True):
        assert weights.shape == (size,)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_gated_attention_is_the_formula() -> None:
    block, bag = GatedAttention([6], width=4), torch.randn(5, 6)
    hidden = torch.tanh(bag @ block.hidden.weight.T + block.hidden.bias)
    gate = torch.sigmoid(bag @ block.gate.weight.T + block.gate.bias)
    weights = torch.softmax((hidden * gate) @ block.score.weight[0] + block.score.bias, 0)
    torch.testing.assert_close(block(bag, [5])[0][0], (weights[:, None] * bag).sum(0))


def test_a_block_that_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="chunk is 0"):
        MeanBag([4], chunk=0)
    with pytest.raises(ValueError, match="heads is 4, but embeddings of 6"):
        BagTransformer([6])


# gradients


def model_of(chunk: int, encoder: nn.Module | None = None, block: Any = GatedAttention) -> MultiTaskModel:
    torch.manual_seed(0)
    spec = ClassSpec(channels=3, classes=("a", "b"), bag="patient")
    return MultiTaskModel(encoder or small_encoder(), {"t": spec}, blocks={"bag": partial(block, chunk=chunk)})


def gradients(model: MultiTaskModel, batch: TaskBatch, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    model.task("t").loss(model(batch.images, "t"), batch.targets).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("block", [GatedAttention, BagTransformer])
def test_gradients_in_chunks_are_those_of_one_go(dtype: torch.dtype, error: float, block: type[BagBlock]) -> None:
    batch = bag_of([7, 1, 12])
    whole = gradients(model_of(100, block=block).to(dtype), batch)
    parts = gradients(model_of(3, block=block).to(dtype), batch)
    assert whole.keys() == parts.keys()
    assert {name.split(".")[0] for name in parts} == {"encoder", "pooling", "blocks", "tasks"}
    largest = max(gradient.abs().max() for gradient in whole.values())
    assert max((whole[name] - parts[name]).abs().max() for name in whole) <= error * largest


def test_all_chunks_but_the_last_go_through_the_encoder_twice() -> None:
    sizes: list[int] = []
    model = model_of(3)
    model.encoder.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    gradients(model, bag_of([7, 1]))
    assert sizes == [3, 3, 2, 3, 3]


class Noisy(nn.Module):
    """An encoder that draws random numbers."""

    in_channels, channels, strides = 3, (8,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.5), persistent=False)

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        size = (images.shape[2], images.shape[3])
        return Pyramid([self.net(images)], [4], size, size)


def test_random_numbers_are_the_same_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, model = bag_of([7, 4]), model_of(3, Noisy())
    found = gradients(model, batch)
    import umedpt_lightning.blocks.bag as module

    monkeypatch.setattr(module, "checkpoint", lambda function, *args, use_reentrant: function(*args))
    for name, expected in gradients(model, batch).items():
        torch.testing.assert_close(found[name], expected)
    other = gradients(model, batch, seed=1)
    assert any(not torch.allclose(found[name], other[name]) for name in found)


def test_what_a_graph_keeps_does_not_grow_with_the_bag() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    def numbers(chunk: int, size: int) -> int:
        kept.clear()
        model, images = model_of(chunk), bag_of([size]).images
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images, "t")
        return sum(kept)

    grown = {chunk: numbers(chunk, 80) - numbers(chunk, 40) for chunk in (4, 100)}
    assert grown[4] < grown[100] / 10  # the images themselves and their embeddings
    assert numbers(4, 4) < numbers(4, 8) < 1.1 * numbers(4, 4)  # one chunk is kept, of one or of two


# the model


def test_bag_tasks_share_a_block_that_is_built_for_them_alone() -> None:
    specs = {"a": spec_of("class"), "b": spec_of("regression"), "c": spec_of("class")}
    bags = {name: type(spec)(**{**spec.__dict__, "bag": "slide"}) for name, spec in specs.items() if name != "c"}
    model = MultiTaskModel(small_encoder(), {**specs, **bags})
    assert list(model.blocks) == ["bag"]
    assert not MultiTaskModel(small_encoder(), specs).blocks
    batch = bag_of([2, 3])
    assert model(batch.images, "a").shape == (2, 3)
    assert model(torch.zeros(4, 3, 32, 32), "c").shape == (4, 3)
    with pytest.raises(
        ValueError, match=r"'a' sees the images of a slide together: give .*Bags, but was given single images"
    ):
        model(torch.zeros(4, 3, 32, 32), "a")
    with pytest.raises(ValueError, match="'c' sees single images, but was given bags"):
        model(batch.images, "c")


def test_bags_have_no_masks() -> None:
    spec = spec_of("mask")
    with pytest.raises(ValueError, match="reads single images, but a sample is a slide of many"):
        MultiTaskModel(small_encoder(), {"m": type(spec)(**{**spec.__dict__, "bag": "slide"})})


def test_an_encoder_that_normalises_by_the_batch_is_refused() -> None:
    specs = {"t": ClassSpec(channels=3, classes=("a", "b"), bag="slide")}
    with pytest.raises(ValueError, match=r"'t' has bags.*batch_norm: freeze or group"):
        MultiTaskModule(specs, small_encoder("test_resnet"))
    MultiTaskModule(specs, small_encoder("test_resnet", batch_norm="freeze"))


def test_a_saved_model_predicts_bags_of_any_size(tmp_path: Path) -> None:
    model = model_of(2, block=partial(BagTransformer, layers=1)).eval()
    model.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    assert loaded.task("t").spec.bag == "patient"
    rng = np.random.default_rng(0)
    bags = [[rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(n)] for n in (1, 5)]
    for one, other in zip(model.predict(bags, "t"), loaded.predict(bags, "t"), strict=True):  # type: ignore[arg-type]
        assert one.shape == (2,)
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match=r"images\[1\] is a bag without images"):
        model.predict([bags[0], []], "t")  # type: ignore[list-item]


# positions

every_placing_block = pytest.mark.parametrize("block", [GatedAttention, BagTransformer])


@every_placing_block
def test_positions_move_with_their_images_and_start_without_effect(block: type[BagBlock]) -> None:
    torch.manual_seed(0)
    plain, made = block([16]).eval(), block([16], position=True).eval()  # type: ignore[call-arg]
    made.load_state_dict(plain.state_dict(), strict=False)
    found, positions = torch.randn(9, 16), torch.rand(9, 2)
    torch.testing.assert_close(made(found, [4, 5], positions)[0], plain(found, [4, 5])[0])
    assert made.place is not None
    torch.nn.init.normal_(made.place.weight)
    expected = made(found, [9], positions)[0]
    order = torch.randperm(9)
    torch.testing.assert_close(made(found[order], [9], positions[order])[0], expected, atol=1e-5, rtol=1e-5)
    for axis in range(2):  # each of both coordinates counts
        moved = positions.clone()
        moved[:, axis] = moved[:, axis].flip(0)
        assert not torch.allclose(made(found, [9], moved)[0], expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"blocks\.bag has `position`, but the images of these bags have none"):
        made(found, [9])


def test_a_reader_says_where_the_images_of_a_bag_lie(images: Path, tmp_path: Path) -> None:
    reader = Bags(instances(images), position=r"_(\d+)\.png", max_instances=4)
    assert reader[0].positions is not None
    assert reader[0].positions.tolist() == [[0, 0]]  # one image alone
    np.testing.assert_allclose(reader[2].positions, np.stack([np.arange(12) / 11, np.zeros(12)], 1), rtol=1e-6)
    drawn = reader.draw(2, 5)
    numbers = [int(Path(one.name).stem.split("_")[1]) for one in drawn.instances]
    np.testing.assert_allclose(drawn.positions, np.stack([np.array(numbers) / 11, np.zeros(4)], 1), rtol=1e-6)
    batch = collate("t", [Transform(8)(reader[1], 0), Transform(8)(reader[3], 0)])
    assert isinstance(batch.images, BagImages)
    assert batch.images.positions is not None
    assert batch.images.positions[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0, 0.5, 1])
    moved = pickle.loads(pickle.dumps(batch)).to("meta")
    assert moved.images.positions.device.type == "meta"
    assert Bags(instances(images))[2].positions is None
    with pytest.raises(ValueError, match=r"position is '\(p\)', but what it finds in names is no number"):
        Bags(instances(images), position="(p)")


def test_slices_and_tiles_know_where_they_lie(tmp_path: Path) -> None:
    slices = Bags(VolumeNumbers(volumes(tmp_path), "train", {"z": ""}, Slices()))
    count = len(slices[0].instances)
    np.testing.assert_allclose(slices[0].positions, np.stack([np.linspace(0, 1, count), np.zeros(count)], 1), atol=1e-6)
    tiles = Bags(SlideNumbers(slides(tmp_path), "train", {"z": ""}, Tiles(mpp=0.5, size=16, tissue=None)))
    positions = tiles[0].positions
    assert positions is not None
    assert (positions.min(0).tolist(), positions.max(0).tolist()) == ([0, 0], [1, 1])


def test_a_block_with_positions_wants_a_reader_that_knows_them(images: Path) -> None:
    plain, placed = (Bags(instances(images), position=position).spec for position in (None, r"_(\d+)"))
    block = {"bag": partial(GatedAttention, position=True)}
    with pytest.raises(ValueError, match=r"reader of task 't' does not know where.*`position: _\(\\d\+\)\\.png`"):
        MultiTaskModule({"t": plain}, small_encoder(), blocks=block)
    MultiTaskModule({"t": placed}, small_encoder(), blocks=block)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (8, 8, 4)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_one_image_without_a_list_is_refused(shape: tuple[int, ...], make: Callable[[tuple[int, ...]], Any]) -> None:
    with pytest.raises(ValueError, match=r"^images is an array \(8, 8.*a list of images\. Put a single one into"):
        named_images(make(shape), bags=False)
    with pytest.raises(ValueError, match=r"^images\[0\] is an array \(8, 8.*a list of images\. Put a single one into"):
        named_images([make(shape)], bags=True)
    with pytest.raises(ValueError, match=r"^images is an array \(.*a list of bags\. Put a single one into a list"):
        named_images(make(shape if len(shape) == 2 else (2, *shape)), bags=True)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 1), (2, 8, 8, 3)])
def test_arrays_of_images_and_of_bags_are_taken(shape: tuple[int, ...]) -> None:
    assert len(named_images(np.zeros(shape), bags=False)[0]) == 2
    assert named_images([np.zeros(shape), np.zeros(shape)], bags=True)[1] == [2, 2]
    assert named_images(np.zeros((3, *shape)), bags=True)[1] == [2, 2, 2]
