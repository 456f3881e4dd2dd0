"""Packs: what goes together, and that nothing changes but the time."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, readers_of, small_encoder
from torch import nn

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.data.loading.dataset import collate
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.packing import packs
from umedpt_lightning.types import TaskBatch

SIDE = 64
IMAGE = SIDE * SIDE


def tasks_of(kinds: list[str], images: int = 2) -> tuple[MultiTaskModel, list[TaskBatch]]:
    torch.manual_seed(0)
    readers = readers_of({f"t{i}": kind for i, kind in enumerate(kinds)}, side=SIDE)
    batches = [collate(name, [reader[i] for i in range(images)]) for name, reader in readers.items()]
    specs = {name: reader.spec for name, reader in readers.items()}
    return MultiTaskModel(small_encoder(), specs, None, SMALL_PIXELS, SMALL_DETECTION), batches


def cut(kinds: list[str], pixels: int) -> list[int]:
    model, batches = tasks_of(kinds)
    found = list(packs(batches, model, pixels))
    assert [batch for pack in found for batch in pack] == batches
    return [len(pack) for pack in found]


def test_without_a_budget_every_micro_batch_goes_alone() -> None:
    assert cut(["class"] * 4, 0) == [1, 1, 1, 1]


def test_a_pack_has_no_more_pixels_than_the_budget_but_a_micro_batch_is_never_cut() -> None:
    assert cut(["class"] * 5, 4 * IMAGE) == [2, 2, 1]
    assert cut(["class"] * 5, 5 * IMAGE) == [2, 2, 1]
    assert cut(["class"] * 5, 100 * IMAGE) == [5]
    assert cut(["class"] * 3, 1) == [1, 1, 1]


def test_only_neighbours_that_use_the_same_blocks_go_together() -> None:
    kinds = ["class", "multilabel", "regression", "mask", "mask", "box", "class"]
    assert cut(kinds, 100 * IMAGE) == [3, 2, 1, 1]


def test_only_images_of_one_size_go_together() -> None:
    model, batches = tasks_of(["class"] * 3)
    batches[1].images = batches[1].images[:, :, :, :16]
    assert [len(pack) for pack in packs(batches, model, 100 * IMAGE)] == [1, 1, 1]


def test_the_next_micro_batch_is_not_asked_for_before_a_full_pack_was_used() -> None:
    model, batches = tasks_of(["class"] * 4)
    asked = []
    for pixels, most in ((0, 1), (4 * IMAGE, 2), (5 * IMAGE, 3)):
        asked.clear()
        next(packs((asked.append(batch) or batch for batch in batches), model, pixels))
        assert len(asked) == most


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_one_after_the_other(kind: str) -> None:
    kinds = ["class", "multilabel", "regression"] if kind in ("class", "multilabel", "regression") else [kind] * 3
    model, batches = tasks_of(kinds)
    batches[1].images = batches[1].images[:1]  # micro-batches need not be equally large
    batches[1].targets = batches[1].targets[:1]
    models = [model.double(), copy.deepcopy(model)]
    losses = [_losses(m, batches, pixels) for m, pixels in zip(models, (0, 100 * IMAGE), strict=True)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-9, rtol=1e-9)
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name  # of blocks that none of them uses
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-9, rtol=1e-9)


def _losses(model: MultiTaskModel, batches: list[TaskBatch], pixels: int) -> torch.Tensor:
    passes: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: passes.append(1))
    losses = []
    for pack in packs(batches, model, pixels):
        outputs = model.forward_pack([batch.images for batch in pack], [batch.task for batch in pack])
        of_pack = [model.task(b.task).loss(o, b.targets) for b, o in zip(pack, outputs, strict=True)]
        torch.stack(of_pack).sum().backward()
        losses += of_pack
    handle.remove()
    assert len(passes) == (1 if pixels else len(batches))
    return torch.stack(losses).detach()


def module_of(encoder: Encoder, **options: Any) -> MultiTaskModule:
    specs = {name: reader.spec for name, reader in readers_of({"a": "class", "b": "mask"}).items()}
    return MultiTaskModule(specs, encoder, pixel_decoder=SMALL_PIXELS, **options)


@pytest.mark.parametrize(
    ("batch_norm", "why"), [("keep", "BatchNorm.*freeze or group"), ("per_task", "each task differently.*no packing")]
)
def test_batch_norm_that_would_mix_tasks_is_refused(batch_norm: Any, why: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.pack_pixels.*{why}"):
        module_of(Encoder("test_resnet", batch_norm=batch_norm), pack_pixels=100)
    module_of(Encoder("test_resnet", batch_norm=batch_norm))


@pytest.mark.parametrize("batch_norm", ["freeze", "group"])
def test_batch_norm_that_does_not_is_fine(batch_norm: Any) -> None:
    assert module_of(Encoder("test_resnet", batch_norm=batch_norm), pack_pixels=100).gradients.pack_pixels == 100


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.pack_pixels must be positive.*-1"):
        module_of(small_encoder(), pack_pixels=-1)


# --- compiled blocks ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at it itself
def test_compiled_blocks_keep_their_names_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:  # the real one writes C++ for a minute
        traced.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.manual_seed(0)
    plain = module_of(small_encoder())
    compiled = module_of(small_encoder(), compile=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    compiled.load_state_dict(plain.state_dict())
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    for task in ("a", "b"):
        torch.testing.assert_close(compiled.model(images, task), plain.model(images, task), atol=1e-5, rtol=1e-4)
    assert len(traced) >= 2  # encoder and pixel decoder
    assert not any(isinstance(m, torch._dynamo.OptimizedModule) for m in nn.Module.modules(compiled))


def test_compiling_what_is_checkpointed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.compile and encoder\.checkpointing do not go together"):
        module_of(small_encoder(checkpointing=True), compile=True)
