"""The whole network: which blocks there are, who trains them, what the encoder sees."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, readers_of, small_encoder, spec_of
from torch import Tensor, nn

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.data.loading.dataset import collate
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Classification, Segmentation
from umedpt_lightning.types import TaskBatch, TaskSpec

NEEDED = {"mask": "pixel_decoder", "box": "detection_decoder"}


def model_of(specs: dict[str, TaskSpec], tasks: dict[str, Any] | None = None, **encoder: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(small_encoder(**encoder), specs, tasks, SMALL_PIXELS, SMALL_DETECTION)


def all_kinds() -> tuple[MultiTaskModel, dict[str, TaskBatch]]:
    readers = readers_of(size=2)
    batches = {name: collate(name, [reader[0], reader[1]]) for name, reader in readers.items()}
    return model_of({name: reader.spec for name, reader in readers.items()}), batches


# --- names and specs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.b", "a/b", "train", "type", "forward", "to", "keys", ""])
def test_a_name_that_cannot_be_a_modules_is_refused_with_the_mend(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.tasks: {name!r} cannot name a task.*Rename"):
        model_of({name: spec_of("class")})


@pytest.mark.parametrize("name", ["chest_xray", "chest xray", "Chest-XRay-14", "0", "überblick"])
def test_any_other_name_works(name: str) -> None:
    assert model_of({name: spec_of("class")}).task(name).spec == spec_of("class")


def test_options_for_a_task_without_data_are_refused_with_both_names() -> None:
    with pytest.raises(ValueError, match=r"model\.tasks\.typo: .*Known from data\.tasks: real"):
        model_of({"real": spec_of("class")}, {"typo": Classification})


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no task.*data\.tasks"):
        model_of({})


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    model = model_of({"a": spec_of("class"), "b": spec_of("mask")})
    for call in (model, model.embed):
        with pytest.raises(ValueError, match=r"no task 'c'.*a, b"):
            call(torch.rand(1, 3, 32, 32), "c")


@pytest.mark.parametrize(
    ("channels", "in_channels", "fits"), [(1, 3, True), (3, 3, True), (4, 3, False), (3, 1, False)]
)
def test_images_have_one_channel_or_as_many_as_the_encoder(channels: int, in_channels: int, fits: bool) -> None:
    specs = {"scan": spec_of("class", channels=channels)}
    if fits:
        model = model_of(specs, in_channels=in_channels)
        assert model(torch.rand(2, channels, 32, 32), "scan").shape == (2, 3)
    else:
        with pytest.raises(
            ValueError, match=rf"'scan' has images with {channels} channels.*{in_channels}: set encoder"
        ):
            model_of(specs, in_channels=in_channels)


# --- which blocks there are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_that_no_task_needs_is_not_there(kind: str) -> None:
    model = model_of({"a": spec_of(kind)})
    for other, decoder in NEEDED.items():
        assert (getattr(model, decoder) is not None) == (kind == other)


def test_options_of_a_task_reach_it() -> None:
    options = {"a": partial(Classification, label_smoothing=0.3), "b": partial(Segmentation, loss="ce")}
    model = model_of({"a": spec_of("class"), "b": spec_of("mask"), "c": spec_of("class")}, options)
    assert [model.task(n).label_smoothing for n in "abc"] == [0.3, 0.0, 0.0]
    assert not model.task("b").with_dice


def test_each_head_and_each_decoder_is_trained_by_exactly_the_tasks_that_use_it() -> None:
    model, batches = all_kinds()
    blocks: dict[str, nn.Module] = {f"tasks.{name}": model.task(name) for name in batches}
    blocks |= {name: getattr(model, name) for name in ("encoder", "pooling", "pixel_decoder", "detection_decoder")}
    for name, batch in batches.items():
        kind = name.removeprefix("a_")
        model.zero_grad()
        model.task(name).loss(model(batch.images, name), batch.targets).backward()
        expected = {f"tasks.{name}", "encoder", NEEDED.get(kind, "pooling")}
        trained = {block for block, module in blocks.items() if any(_moved(p) for p in module.parameters())}
        assert trained == expected
        for block in expected - {"encoder"}:
            without = [n for n, p in blocks[block].named_parameters() if p.grad is None]
            assert without == [], (name, block)


def _moved(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)


def test_all_tasks_together_train_every_parameter() -> None:
    model, batches = all_kinds()
    for name, batch in batches.items():
        model.task(name).loss(model(batch.images, name), batch.targets).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


# --- what the encoder sees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "value_range"),
    [
        (torch.arange(256, dtype=torch.uint8), (0.0, 255.0)),
        (torch.arange(0, 65536, 257, dtype=torch.int32).to(torch.uint16), (0.0, 65535.0)),
        (torch.linspace(-1000, 3000, 256), (-1000.0, 3000.0)),
    ],
    ids=["uint8", "uint16", "float32"],
)
def test_the_value_range_becomes_zero_to_one_in_any_stored_dtype(stored: Tensor, value_range: Any) -> None:
    model = model_of({"a": replace(spec_of("class"), value_range=value_range)})
    images = stored.reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    seen = model.normalise(images, "a")
    assert seen.dtype == torch.float32
    unit = seen * model.encoder.std + model.encoder.mean
    torch.testing.assert_close(unit, torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).expand(1, 3, -1, -1))


def test_each_task_has_its_own_value_range() -> None:
    model = model_of({"a": spec_of("class"), "b": replace(spec_of("class"), value_range=(0.0, 510.0))})
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    a, b = (model.normalise(images, name) * model.encoder.std + model.encoder.mean for name in "ab")
    torch.testing.assert_close(a, 2 * b)


def test_a_gray_image_is_repeated_to_the_encoders_channels() -> None:
    model = model_of({"gray": spec_of("class", channels=1), "colour": spec_of("class")}).eval()
    gray = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert model.normalise(gray, "gray").shape == (2, 3, 32, 32)
    torch.testing.assert_close(model.embed(gray, "gray"), model.embed(gray.repeat(1, 3, 1, 1), "colour"))


@pytest.mark.parametrize("batch_norm", ["keep", "group", "per_task"])
def test_in_evaluation_an_embedding_does_not_depend_on_the_other_images(batch_norm: Any) -> None:
    model = MultiTaskModel(Encoder("test_resnet", batch_norm=batch_norm), {"a": spec_of("class")}).eval()
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    together = model.embed(images, "a")
    assert together.shape == (4, model.encoder.channels[-1])
    alone = torch.cat([model.embed(image[None], "a") for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_output_of_forward_is_that_of_the_head_on_the_embedding() -> None:
    model = model_of({"a": spec_of("class")}).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(images, "a"), model.task("a")(model.embed(images, "a")))


def test_a_head_does_not_keep_the_shared_blocks() -> None:
    model = MultiTaskModel(small_encoder(), {"a": spec_of("class")})
    encoder = sum(parameter.nbytes for parameter in model.encoder.parameters())
    assert len(pickle.dumps(model.task("a"))) < encoder / 10
