"""The shared blocks that the tasks of a model need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from umedpt_lightning.blocks.bag import BAG
from umedpt_lightning.blocks.encoder import BaseEncoder
from umedpt_lightning.blocks.shared_block import SharedBlock
from umedpt_lightning.labels import TaskSpec

#: Builds a shared block from the encoder's channels and strides.
BlockFactory = Callable[[Sequence[int], Sequence[int]], SharedBlock]


def needs_of(spec: TaskSpec, needs: str) -> str:
    """The block that a task reads: what its head needs, and the bag's in the place of the embedding for bags.

    Raises:
        ValueError: Its samples are bags, which have no such features.
    """
    if spec.bag and needs != "embedding":
        raise ValueError(
            f"A head that needs {needs!r} reads single images, but a sample is a {spec.bag} of many. Bags have "
            "classes, labels, numbers and times to an event: take one of these, or the reader of the images alone."
        )
    return BAG if spec.bag else needs


class BuiltBlocks:
    """Builds each shared block when the first task needs it."""

    def __init__(self, encoder: BaseEncoder, factories: Mapping[str, BlockFactory]) -> None:
        self._encoder, self._factories = encoder, factories
        self._built: dict[str, SharedBlock] = {}

    def block(self, task: str, needs: str) -> SharedBlock | None:
        """What turns the pyramid into the features that a task needs; None for the embedding, which is always there."""
        if needs == "embedding":
            return None
        if self._factories.get(needs) is None:  # a config may say null
            there = ", ".join(name for name, factory in self._factories.items() if factory is not None)
            mend = (
                "It is null: leave that out" if needs in self._factories else f"Describe it under model.blocks.{needs}"
            )
            raise ValueError(
                f"Task {task!r} needs the shared block {needs!r}, but there are only embedding, {there}. {mend}."
            )
        if needs not in self._built:
            encoder = self._encoder
            try:
                given = ([encoder.embedding_channels], []) if needs == BAG else (encoder.channels, encoder.strides)
                self._built[needs] = self._factories[needs](*given)
            except ValueError as error:
                raise ValueError(
                    f"Task {task!r} needs {needs!r} features, but encoder {encoder.card().name} cannot give them: "
                    f"{error}. Take an encoder whose maps halve from one to the next (resnet50, convnext_tiny, "
                    "swin_tiny_patch4_window7_224; for a vision transformer class_path: ViTEncoder), another block, or "
                    "leave this task out."
                ) from error
        return self._built[needs]

    def width(self, task: str, spec: TaskSpec, needs: str) -> int:
        """Channels of the features that a head needs, of a bag where the task's samples are bags."""
        block = self.block(task, needs_of(spec, needs))
        return self._encoder.embedding_channels if block is None else block.out_channels
