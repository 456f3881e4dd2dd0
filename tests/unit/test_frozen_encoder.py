"""Bags under an encoder that does not learn: each image is embedded once, and nothing else comes of it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from builders import SMALL_PIXELS, MemoryReader, small_convnext, small_encoder, trainer_of
from torch import Tensor, nn

from umedpt_lightning.blocks.frozen import KeptEmbeddings, is_frozen
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import Bags, Subset
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization, ParameterGroups, frozen_encoder

EPOCHS, IMAGES = 3, 15


def patients(**options: Any) -> Bags:
    """Six bags of one image and one of nine; `MemoryReader` writes the number of an image into it."""
    reader = MemoryReader("class", size=IMAGES)
    reader.targets = np.array([int(str(i)[0]) % 3 for i in range(IMAGES)])
    return Bags(reader, group=r"sample (\d)", **options)


def fitted(
    monkeypatch: pytest.MonkeyPatch, frozen: Any = "all", **options: Any
) -> tuple[MultiTaskModule, Counter[int]]:
    """A module after some passes, and how often each image went through its encoder, beside masks of other images."""
    torch.manual_seed(0)
    masks = MemoryReader("mask", size=4, seed=1)
    tasks = {
        "bags": TaskData(train=patients(max_instances=2), val=patients(), batch_size=2, **options),
        "masks": TaskData(train=masks, val=masks, batch_size=2),
    }
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=4)
    optimization = Optimization(learning_rate=0.01, groups=ParameterGroups(frozen_stages=frozen))
    encoder = small_convnext(0.5)
    # in double precision, since AdamW makes steps of rounding errors where a gradient is none
    module = MultiTaskModule(data.specs, encoder, pixel_decoder=SMALL_PIXELS, optimization=optimization).double()
    seen: Counter[int] = Counter()
    pyramid = module.model.pyramid

    def counted(images: Tensor, task: str) -> Any:
        if task == "bags":
            seen.update(images[:, 0, 0, 0].tolist())
        return pyramid(images, task)

    monkeypatch.setattr(module.model, "pyramid", counted)
    trainer_of(max_epochs=EPOCHS, limit_val_batches=1.0, num_sanity_val_steps=1).fit(module, data)
    return module, seen


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_each_image_is_embedded_once_and_the_run_ends_as_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        module, seen = fitted(monkeypatch)
    assert seen == dict.fromkeys(range(IMAGES), 1)
    assert "The encoder is frozen, so that each image of the bags of bags is embedded once." in caplog.text
    assert module.model.kept is None, "its weights may be others after the run"

    monkeypatch.setattr("umedpt_lightning.training.module.keep_embeddings", lambda *_: None)
    plain, seen = fitted(monkeypatch)
    assert min(seen.values()) > EPOCHS
    assert difference(module, plain) < 1e-9
    begun = MultiTaskModule({"bags": patients().spec}, small_convnext(0.5))
    assert difference(module.model.block("bag"), begun.model.block("bag")) > 1e-3, "it has learned"


def test_an_encoder_that_learns_embeds_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = fitted(monkeypatch, frozen=1)
    assert min(seen.values()) > EPOCHS


def test_augmented_images_are_embedded_in_each_pass_of_the_training_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        _, seen = fitted(monkeypatch, augment={"noise": None, "flip": albumentations.HorizontalFlip(p=0)})
    assert "but training images of bags in each pass: they are augmented. Leave `augment` out" in caplog.text
    drawn = EPOCHS * 4 * 2  # rounds of two bags, of which six in seven have one image
    assert IMAGES + drawn <= sum(seen.values()) <= IMAGES + 2 * drawn
    _, seen = fitted(monkeypatch, augment={"noise": None})
    assert set(seen.values()) == {1}


def test_embeddings_that_would_take_too_much_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frozen_encoder, "_MOST", 100)
    with caplog.at_level("INFO"):
        _, seen = fitted(monkeypatch)
    assert "but embeddings of 30 images of bags would take 0.0 GiB, more than" in caplog.text
    assert min(seen.values()) > EPOCHS


def test_kept_embeddings_are_told_apart_by_what_they_depend_on_and_bounded() -> None:
    computed = []

    def embed(images: Tensor) -> Tensor:
        computed.append(len(images))
        return images.float().mean((2, 3))

    kept = KeptEmbeddings(most=3)
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 2, 2)
    with torch.inference_mode():
        kept(embed, images[:2], "a")
    found = kept(embed, images[[1, 0, 1]], "a")
    assert found[:, 0].tolist() == [1, 0, 1]
    assert not found.is_inference(), "a graph may begin here"
    assert computed == [1, 1]
    kept(embed, images[:1], "b")
    assert (len(computed), len(kept)) == (3, 3)
    for _ in range(2):
        assert kept(embed, images[3:], "a").tolist() == [[3]]
    assert (len(computed), len(kept)) == (5, 3)
    kept(embed, images[:1].reshape(1, 1, 1, 4), "a")
    assert len(computed) == 6


def test_embeddings_of_a_fit_that_was_broken_off_are_forgotten_with_its_weights() -> None:
    module = MultiTaskModule({"a": patients().spec}, small_encoder())
    module.model.kept = KeptEmbeddings(9)
    copy.deepcopy(module).load_state_dict(module.state_dict())
    assert module.model.kept is not None
    module.load_state_dict(module.state_dict())
    assert module.model.kept is None


def test_an_encoder_is_frozen_that_neither_learns_nor_draws() -> None:
    encoder = small_convnext(0.5)
    assert not is_frozen(encoder.eval())
    encoder.requires_grad_(False)
    assert is_frozen(encoder)
    assert not is_frozen(encoder.train())


def test_bags_and_parts_of_them_say_how_many_images_they_have() -> None:
    assert patients().sizes.tolist() == [1, 6, 1, 1, 1, 1, 1, 1, 1, 1]
    assert Subset(patients(), 1, 3).sizes.tolist() == [6, 1]
    assert MemoryReader("class", size=3).sizes.tolist() == [1, 1, 1]
