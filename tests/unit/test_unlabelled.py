"""Images without labels: how they are read, hidden, painted in again, and shown to a teacher."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import SMALL_PIXELS, WIDTHS, MemoryReader, small_encoder
from PIL import Image
from sklearn.metrics import r2_score
from torch import Tensor, nn
from volume_files import nifti

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.loading.dataset import MultiTaskDataset, collate_micro_batch
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers import Bags, ClassFolders, Packed, Split, Unlabelled, UnlabelledFolder
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.labels import PixelLayer
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import ImitateEmbedding, ImitateMaps, MaskedImages
from umedpt_lightning.tasks.explained import Explained
from umedpt_lightning.tasks.imitation import Imitation
from umedpt_lightning.tasks.masked_images import hidden_squares
from umedpt_lightning.transfer.sources import PretrainedSource, TimmSource
from umedpt_lightning.types import TaskBatch, UnlabelledSpec

SPEC = UnlabelledSpec(channels=3)


def batch_of(images: Tensor, seed: int = 0) -> TaskBatch:
    count = len(images)
    size = (images.shape[2], images.shape[3])
    return TaskBatch("t", images, torch.arange(seed, seed + count), [str(i) for i in range(count)], [size] * count)


def random_images(count: int = 3, side: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


# readers


def image(path: Path, value: int, shape: tuple[int, ...] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_all_images_of_a_folder_are_read_whatever_lies_beside_them(tmp_path: Path) -> None:
    for number, name in enumerate(("2.png", "a/1.jpg", "a/b/10.tif", "a/b/9.tif")):
        image(tmp_path / name, 10 * number)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    image(tmp_path / ".hidden" / "0.png", 0)
    reader = UnlabelledFolder(tmp_path)
    assert [Path(reader.name(i)).name for i in range(len(reader))] == ["2.png", "1.jpg", "9.tif", "10.tif"]
    assert reader.spec == UnlabelledSpec(channels=1)
    assert reader[2].image.shape == (8, 8, 1)
    assert tmp_path / "a" / "notes.txt" in set(reader.found())
    both = UnlabelledFolder([tmp_path / "a" / "b", str(tmp_path / "a")], channels=3)
    assert [Path(both.name(i)).name for i in range(len(both))] == ["9.tif", "10.tif", "1.jpg", "9.tif", "10.tif"]


def test_volumes_of_a_folder_are_cut_into_slices(tmp_path: Path) -> None:
    for number in range(2):
        nifti(tmp_path / f"{number}" / "x.nii", np.full((6, 5, 3), number, np.uint8))
    assert len(UnlabelledFolder(tmp_path)) == 6
    reader = UnlabelledFolder(tmp_path, Slices(axis="sagittal"))
    assert len(reader) == 12
    assert reader[0].image.shape == (3, 5, 1)
    assert len(set(reader.groups.tolist())) == 2
    image(tmp_path / "1.png", 0)
    with pytest.raises(ValueError, match=r"there are volumes .*x\.nii.* and images .*1\.png.*a folder of its own"):
        UnlabelledFolder(tmp_path)


def test_a_folder_that_is_missing_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        UnlabelledFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there are no images here"):
        UnlabelledFolder(tmp_path)


def test_labels_of_another_reader_are_left_out_and_bags_refused() -> None:
    reader = Unlabelled(MemoryReader("box"))
    assert reader[1].target == 1
    assert reader.targets is None
    assert reader.draw(1, 77).target == 77
    assert np.array_equal(reader[1].image, MemoryReader("box")[1].image)
    classes = MemoryReader("class")
    classes.targets = np.array(classes.values)
    with pytest.raises(ValueError, match=r"gives bags \(patient\)"):
        Unlabelled(Bags(classes, of="patient", group=r"sample (\d)"))


@pytest.mark.parametrize("kind", ["folder", "split", "of another reader"])
def test_a_cache_keeps_images_and_no_seeds(tmp_path: Path, kind: str) -> None:
    for number in range(6):
        image(tmp_path / f"{number}.png", number)
    reader: Any = UnlabelledFolder(tmp_path)
    reader = {"split": Split(reader, "train", (0.5, 0.5, 0)), "of another reader": Unlabelled(reader)}.get(kind, reader)
    cached = reader.cached(partial(CachedReader, place="ram"))
    for seed in (5, 6):
        sample = cached.draw(1, seed)
        assert sample.target == seed
        assert np.array_equal(sample.image, reader[1].image)


def test_packed_images_have_a_seed_of_each_pass_too(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "images" / f"{number}.png", number)
    folder = {"class_path": "UnlabelledFolder", "init_args": {"folder": str(tmp_path / "images")}}
    half = {"class_path": "Split", "init_args": {"reader": folder, "part": "train", "fractions": [0.5, 0.5, 0]}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"data": {"tasks": {"whole": {"train": folder, "val": half}}}}))
    main(["data", "pack", "--config", str(tmp_path / "tasks.yaml"), "--out", str(tmp_path / "out"), "--workers", "0"])
    tasks = yaml.safe_load((tmp_path / "out" / "tasks.yaml").read_text())["data"]["tasks"]["whole"]
    for part, count in (("train", 6), ("val", 3)):
        assert tasks[part]["class_path"] == "Unlabelled"
        packed = Unlabelled(Packed(str(tmp_path / "out" / "whole" / part)))
        assert len(packed) == count
        assert packed.draw(1, 77).target == 77


def test_a_seed_follows_from_the_sample_in_training_and_the_index_in_evaluation() -> None:
    readers, transforms = {"t": Unlabelled(MemoryReader("class"))}, {"t": Transform(16)}
    seen = {
        training: MultiTaskDataset(readers, transforms, training=training)[SampleKey("t", 2, 99)]
        for training in (True, False)
    }
    assert (seen[True].sample.target, seen[False].sample.target) == (99, 2)
    assert collate_micro_batch([seen[True], seen[False]]).targets.tolist() == [99, 2]


# masked images


def test_as_many_squares_of_each_image_are_hidden_and_all_are_as_often() -> None:
    seeds = torch.arange(2000) * 2_147_483 + 5
    hidden = hidden_squares(seeds, 49, 0.6)
    assert (hidden.sum(1) == 29).all()
    assert (hidden.float().mean(0) - 29 / 49).abs().max() < 0.05, "five standard deviations"
    neighbours = torch.corrcoef(hidden.float().T) - torch.eye(49)
    assert neighbours.abs().max() < 0.13, "squares are hidden together no more than by chance (1/48 and noise)"
    assert len({tuple(row) for row in hidden.tolist()}) == 2000
    assert torch.equal(hidden_squares(seeds[7:9], 49, 0.6), hidden[7:9])
    assert hidden_squares(seeds[:2], 2, 0.01).sum(1).tolist() == [1, 1], "one is hidden and one seen at least"


def test_hidden_squares_are_those_of_every_other_machine_and_release() -> None:
    found = hidden_squares(torch.tensor([0, 4294967295]), 9, 0.5).int().tolist()
    assert found == [[0, 0, 0, 1, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0, 1, 0]]


def test_hidden_pixels_cannot_be_seen_and_visible_ones_are_as_stored() -> None:
    task = MaskedImages(SPEC, WIDTHS, square=8)
    images = random_images()
    batch = task.prepare(batch_of(images))
    cover = batch.targets[:, -1:].bool().expand(-1, 3, -1, -1)
    assert cover[0, 0].float().mean() == 10 / 16
    torch.testing.assert_close(batch.images[~cover], images.float()[~cover])
    for seen, hidden, stored in zip(batch.images, cover, images.float(), strict=True):
        torch.testing.assert_close(seen[hidden], stored[~hidden].mean().expand(int(hidden.sum())))
    other = images.clone()
    other[cover] = 255 - other[cover]
    torch.testing.assert_close(task.prepare(batch_of(other)).images, batch.images, msg="what is hidden is not seen")
    assert not torch.equal(task.prepare(batch_of(images, seed=1)).images, batch.images)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.1, 20.0)])
def test_the_loss_is_about_1_for_the_mean_and_0_for_the_image_at_any_contrast(gain: float, offset: float) -> None:
    task = MaskedImages(SPEC, WIDTHS)
    batch = task.prepare(batch_of(random_images(16, 56).float() * gain + offset))
    assert task.loss(task.baseline(batch.targets), batch.targets).item() == pytest.approx(1, abs=0.05)
    assert task.loss(batch.targets[:, :-1], batch.targets).item() == 0
    visible = batch.targets[:, :-1].where(batch.targets[:, -1:] > 0, torch.tensor(9.0))
    assert task.loss(visible, batch.targets).item() == 0, "what is to be seen does not count"
    task.update(batch.targets[:, :-1] * 0.25, batch.targets)
    assert task.compute()["explained"].item() == pytest.approx(0.25)


def test_an_image_that_is_all_alike_has_a_finite_loss() -> None:
    task = MaskedImages(SPEC, WIDTHS)
    batch = task.prepare(batch_of(torch.full((2, 3, 28, 28), 7, dtype=torch.uint8)))
    assert task.loss(torch.ones(2, 3, 28, 28), batch.targets).item() == pytest.approx(1)


def test_pictures_show_the_image_and_what_was_painted_into_its_hidden_squares() -> None:
    task = MaskedImages(SPEC, WIDTHS, square=8)
    batch = task.prepare(batch_of(random_images(1)))
    target = batch.targets[0].numpy()
    view = task.comparison_view(target, np.zeros_like(target[:-1]))
    assert isinstance(view.truth, PixelLayer)
    assert isinstance(view.prediction, PixelLayer)
    hidden = target[-1] > 0
    np.testing.assert_array_equal(view.prediction.values[:, ~hidden], view.truth.values[:, ~hidden])
    assert np.unique(view.prediction.values[:, hidden]).size == 1
    assert view.lines[0].text == "explained of what is hidden: 0.00"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hidden": 1.0}, "hidden is 1.0"), ({"square": 0}, "square is 0")],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedImages(SPEC, WIDTHS, **options)


def test_images_smaller_than_two_squares_are_told_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"squares of 32 pixels, but its images are 28 x 28.*smaller `square`"):
        MaskedImages(SPEC, WIDTHS, square=32).prepare(batch_of(random_images(1, 28)))


# teachers


def teacher_weights(folder: Path, seed: int = 1) -> Path:
    """A folder of a model that another task has trained, so to say."""
    torch.manual_seed(seed)
    model = MultiTaskModel(Encoder("test_convnext"), {"grey": UnlabelledSpec(channels=1, value_range=(0.0, 1.0))})
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_weights(tmp_path_factory.mktemp("teacher"))


def student(kind: type[Imitation], source: Any, **options: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = {"t": partial(kind, teacher=source, **options)}
    return MultiTaskModel(small_encoder(), {"t": SPEC}, tasks, SMALL_PIXELS)


@pytest.mark.parametrize("kind", [ImitateEmbedding, ImitateMaps])
def test_what_a_teacher_gives_is_learnt_and_the_teacher_stays_as_it_was(kind: type[Imitation], taught: Path) -> None:
    model = student(kind, PretrainedSource(str(taught)))
    task = model.task("t")
    teacher = task._teacher.model
    before = copy.deepcopy(teacher.state_dict())
    batch = task.prepare(batch_of(random_images(4, 64)))
    assert not batch.targets.requires_grad
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = task.loss(model(batch.images, "t"), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.6)
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    model.train()
    assert not teacher.training


def test_the_teacher_itself_explains_all_and_a_head_that_says_nothing_has_a_loss_of_1(taught: Path) -> None:
    task = student(ImitateEmbedding, PretrainedSource(str(taught))).task("t")
    batch = task.prepare(batch_of(random_images(4)))
    assert task.loss(torch.zeros_like(batch.targets), batch.targets).item() == pytest.approx(1, abs=1e-3)
    task.update(batch.targets, batch.targets)
    assert task.compute()["explained"].item() == pytest.approx(1)
    task.reset()
    task.update(batch.targets[:1], batch.targets[:1])
    assert task.compute()["explained"].isnan()


@pytest.mark.parametrize("kind", [ImitateEmbedding, ImitateMaps])
def test_pictures_say_how_like_the_teacher_the_student_is(kind: type[Imitation], taught: Path) -> None:
    model = student(kind, PretrainedSource(str(taught)))
    task = model.task("t")
    batch = task.prepare(batch_of(random_images(1, 64)))
    with torch.no_grad():
        output = task.predict(model(batch.images, "t"))
        (line,) = task.comparison_view(batch.targets[0].numpy(), output[0].numpy()).lines
        found = task._like(output, batch.targets)
    cosine = nn.functional.cosine_similarity(found, batch.targets, dim=-1).mean()
    assert line.text == f"cosine to the teacher: {cosine:.2f}"


def test_a_teacher_has_its_own_normalisation_and_the_students_intensities(taught: Path) -> None:
    images = random_images(2, 64)
    teacher = MultiTaskModel.from_pretrained(taught).eval()
    teacher.encoder.mean.fill_(0.3)
    for scale, offset in ((1.0, 0.0), (2.0, 100.0)):
        spec = UnlabelledSpec(channels=3, value_range=(offset, offset + 255 * scale))
        model = PretrainedSource(str(taught)).open_teacher(spec)
        model.encoder.mean.fill_(0.3)
        expected = teacher.pooling(teacher.encoder((images / 255 - 0.3) / teacher.encoder.std, None))
        torch.testing.assert_close(model.embedding(images * scale + offset), expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_may_see_images_in_another_size(taught: Path) -> None:
    task = student(ImitateMaps, PretrainedSource(str(taught)), size=96).task("t")
    assert task.prepare(batch_of(random_images(1, 64))).targets.shape == (1, 3, 3, task.hparams["channels"])


def test_a_teacher_is_in_no_weights_copies_or_devices_of_its_student(taught: Path) -> None:
    model = student(ImitateEmbedding, PretrainedSource(str(taught)))
    assert {name for name in model.state_dict() if name.startswith("tasks.t.")} == {
        "tasks.t.head.weight",
        "tasks.t.head.bias",
    }
    assert copy.deepcopy(model).task("t")._teacher.model is model.task("t")._teacher.model
    model.to("meta")
    assert next(model.task("t")._teacher.model.parameters()).device.type == "cpu"


def test_a_saved_student_needs_no_teacher_until_it_is_trained(taught: Path, tmp_path: Path) -> None:
    model = student(ImitateEmbedding, PretrainedSource(str(taught)))
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    task = again.task("t")
    assert task.hparams["origin"] == str(taught)
    assert task.hparams["fingerprint"] == model.task("t").hparams["fingerprint"] != ""
    images = random_images(1)
    torch.testing.assert_close(again.eval().embed(images, "t"), model.eval().embed(images, "t"))
    with pytest.raises(ValueError, match=r"imitates .*, which is not in its weights\. Give it under model\.tasks\.t"):
        task.prepare(batch_of(images))
    with pytest.raises(ValueError, match="nothing to say of an image"):
        again.predict([images[0].permute(1, 2, 0).numpy()], "t")


def test_another_teacher_than_that_of_the_fingerprint_is_refused(taught: Path, tmp_path: Path) -> None:
    wanted = student(ImitateEmbedding, PretrainedSource(str(taught))).task("t").hparams["fingerprint"]
    student(ImitateEmbedding, PretrainedSource(str(taught)), fingerprint=wanted)
    other = PretrainedSource(str(teacher_weights(tmp_path, seed=2)))
    with pytest.raises(ValueError, match=r"but .* is wanted\. Give the teacher that the training began with"):
        student(ImitateEmbedding, other, fingerprint=wanted)
    with pytest.raises(ValueError, match=r"There is no teacher\. Give one under model\.tasks"):
        student(ImitateEmbedding, None)


def test_a_timm_model_is_a_teacher_and_travels_to_workers() -> None:
    model = student(ImitateMaps, TimmSource("test_efficientnet"))
    task = model.task("t")
    assert task.hparams["origin"] == "test_efficientnet with random weights"
    assert isinstance(pickle.loads(pickle.dumps(task)), nn.Module)


def test_classes_of_folders_can_be_left_out(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    assert len(Unlabelled(ClassFolders(tmp_path))) == 4


def test_what_is_explained_is_the_r2_of_all_channels_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(5, [1.0, 3.0, 0.1], (50, 3))
    found, metric = truth + rng.normal(0, 0.5, truth.shape), Explained(3)
    for rows in (slice(0, 20), slice(20, 50)):
        metric.update(torch.from_numpy(found[rows]), torch.from_numpy(truth[rows]))
    assert float(metric.compute()) == pytest.approx(r2_score(truth, found, multioutput="variance_weighted"), abs=1e-6)
