"""Packs: small micro-batches of several tasks that go through the shared blocks together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from umedpt_lightning.blocks import BAG
from umedpt_lightning.blocks.batch_norm import normalises_by_batch
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import TaskBatch


def packs(micro_batches: Iterable[TaskBatch], model: MultiTaskModel, pixels: int) -> Iterator[Sequence[TaskBatch]]:
    """Cuts a round into packs of consecutive micro-batches that use the same blocks and have images of one size.

    Args:
        micro_batches: Those of a round, pulled one by one; at most one more than the pack holds.
        model: Says which blocks a task uses.
        pixels: Pixels of all images of a pack at most, which bounds the memory that its graph takes; a micro-batch that
            is larger is a pack of its own. With 0 every micro-batch is.

    Returns:
        Packs of at least one micro-batch, in the order of the round.
    """
    return _packed(micro_batches, model, pixels) if pixels else ([micro_batch] for micro_batch in micro_batches)


def _packed(micro_batches: Iterable[TaskBatch], model: MultiTaskModel, pixels: int) -> Iterator[list[TaskBatch]]:
    pack: list[TaskBatch] = []
    for micro_batch in micro_batches:
        if pack and not (_fits(pack[0], micro_batch, model) and _pixels(*pack, micro_batch) <= pixels):
            yield pack
            pack = []
        pack.append(micro_batch)
        if _pixels(*pack) >= pixels:  # full: the next one is not asked for before this has been used
            yield pack
            pack = []
    if pack:
        yield pack


def check_packing(model: MultiTaskModel, pixels: int) -> None:
    """Holds that images of one task do not change what another's become.

    Raises:
        ValueError: `pixels` is negative, or shared blocks have BatchNorm that normalises by the batch.
    """
    if pixels < 0:
        raise ValueError(f"model.pack_pixels must be positive, or 0 for no packing, but it is {pixels}.")
    if pixels and model.encoder.depends_on_task:
        raise ValueError(
            "model.pack_pixels: the encoder treats the images of each task differently (batch_norm: per_task, say), so "
            "that those of several tasks cannot go through it together. Take another encoder, or no packing (0)."
        )
    blocks = (model.encoder, model.pixel_decoder, model.detection_decoder, *model.blocks.values())
    if pixels and any(normalises_by_batch(block) for block in blocks if block is not None):
        raise ValueError(
            "model.pack_pixels: the shared blocks have BatchNorm, which would mix the tasks of a pack. Take "
            "encoder.batch_norm: freeze or group, an encoder without BatchNorm, or no packing (0)."
        )


def check_bags(model: MultiTaskModel) -> None:
    """Holds that the images of a bag can go through the encoder in chunks, and again.

    Raises:
        ValueError: A task has bags, and the encoder normalises by the batch, or the block of bags wants positions that
            nothing says.
    """
    bags = [name for name in model.tasks if model.task(name).spec.bag]
    if bags and normalises_by_batch(model.encoder):
        raise ValueError(
            f"Task {bags[0]!r} has bags, whose images go through the encoder in chunks, but its BatchNorm would make "
            "each depend on the others of its chunk. Take encoder.batch_norm: freeze or group, or an encoder without."
        )
    unplaced = [name for name in bags if not model.task(name).spec.cut.get("bag", {}).get("placed")]
    if unplaced and getattr(model.block(BAG), "place", None) is not None:
        raise ValueError(
            f"model.blocks.{BAG} has `position`, but the reader of task {unplaced[0]!r} does not know where the images "
            r"of its bags lie. Give `Bags` an expression that finds it in their names, such as `position: _(\d+)\.png`."
        )


def _fits(first: TaskBatch, other: TaskBatch, model: MultiTaskModel) -> bool:
    same_blocks = model.needs(first.task) == model.needs(other.task) != BAG  # bags go by chunks of their own
    return same_blocks and first.images.shape[2:] == other.images.shape[2:]


def _pixels(*micro_batches: TaskBatch) -> int:
    return sum(m.images.shape[0] * m.images.shape[2] * m.images.shape[3] for m in micro_batches)
