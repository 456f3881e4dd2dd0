"""The whole network in pure torch: shared blocks and a head for every task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks import (
    BAG,
    BaseEncoder,
    DetectionDecoder,
    GatedAttention,
    PixelDecoder,
    Pooling,
    Pyramid,
    as_encoder,
)
from umedpt_lightning.blocks.bag import in_chunks
from umedpt_lightning.blocks.built import BlockFactory, BuiltBlocks, needs_of
from umedpt_lightning.blocks.frozen import KeptEmbeddings, forget_embeddings, is_frozen
from umedpt_lightning.blocks.gradient_scale import scale_gradient
from umedpt_lightning.blocks.plain_encoder import check_pyramid
from umedpt_lightning.io.arrays import Image, as_image, resized, scale_warning, stacks
from umedpt_lightning.pretrained import PretrainedModel
from umedpt_lightning.tasks import FeatureWidths, Task, default_task
from umedpt_lightning.tasks.contract import as_task, predictions_of
from umedpt_lightning.tasks.names import check_task_names
from umedpt_lightning.types import Bags, TaskSpec, finite_rows
from umedpt_lightning.types.bags import named_images, one_by_one

#: What mends an output that is not finite.
NOT_FINITE = "Check the image, and the model's weights."
PixelDecoderFactory = Callable[[Sequence[int], Sequence[int]], PixelDecoder]
DetectionDecoderFactory = Callable[[Sequence[int], Sequence[int]], DetectionDecoder]
#: Builds a task from what its data say and the widths of the shared features.
TaskFactory = Callable[[TaskSpec, FeatureWidths], Task]


class MultiTaskModel(PretrainedModel):
    """One encoder, the shared blocks that tasks need, and a head for every task.

    A decoder or another block that no task needs is not built.

    Args:
        encoder: The shared encoder, a `BaseEncoder` or a module that has what `as_encoder` asks for.
        specs: What the data of each task say of themselves, by task name.
        tasks: How to build a task; a name left out gets the default of its label kind.
        pixel_decoder: Builds the shared pixel decoder.
        detection_decoder: Builds the shared detection decoder.
        sizes: Height and width that `predict` resizes a task's images to; a task left out keeps them.
        blocks: Builds further shared blocks, by the name that tasks say in `Task.needs`, and that of bags, ``bag``.

    Raises:
        ValueError: The encoder lacks something, `tasks` names a task without data, a name cannot be used, a task's
            images have channels that the encoder does not take, or a task needs a block that is not there or does not
            fit the encoder.
    """

    def __init__(
        self,
        encoder: BaseEncoder | nn.Module,
        specs: Mapping[str, TaskSpec],
        tasks: Mapping[str, TaskFactory] | None = None,
        pixel_decoder: PixelDecoderFactory = PixelDecoder,
        detection_decoder: DetectionDecoderFactory = DetectionDecoder,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        blocks: Mapping[str, BlockFactory] | None = None,
    ) -> None:
        super().__init__()
        encoder = as_encoder(encoder)
        check_task_names(specs, tasks or {})
        for name, spec in specs.items():
            if spec.channels not in (1, encoder.in_channels):
                raise ValueError(
                    f"Task {name!r} has images with {spec.channels} channels, but the encoder takes 1 (repeated) or "
                    f"{encoder.in_channels}: set encoder.in_channels, or `channels` of the task's readers."
                )
        encoder.bind(list(specs))
        self.encoder = encoder
        self.sizes = dict(sizes or {})
        self.kept: KeptEmbeddings | None = None
        self.register_load_state_dict_pre_hook(forget_embeddings)  # type: ignore[no-untyped-call]  # as torch has it
        self.pooling = Pooling(encoder.embedding_channels)
        decoders = {"pixels": pixel_decoder, "detection": detection_decoder}
        built = BuiltBlocks(encoder, {**decoders, BAG: GatedAttention, **(blocks or {})})
        self.tasks = nn.ModuleDict()
        for name, spec in specs.items():
            widths = FeatureWidths(partial(built.width, name, spec))
            self.tasks[name] = as_task(((tasks or {}).get(name) or default_task(spec, name))(spec, widths), name)
            widths.close()
        # a head may have asked for a width that it does not need
        needs = {self.needs(name): name for name in specs}
        needed = {need: block for need, name in needs.items() if (block := built.block(name, need)) is not None}
        self.pixel_decoder = needed.pop("pixels", None)
        self.detection_decoder = needed.pop("detection", None)
        self.blocks = nn.ModuleDict(needed)

    def forward(self, images: Tensor | Bags, task: str, factor: float = 1.0) -> Any:
        """The raw output of a task's head.

        Args:
            images: ``(B, C, H, W)`` in stored dtype and intensities, or `Bags` of such, as the task's samples are.
            task: The task's name.
            factor: What the gradient that the head hands down to the shared blocks is multiplied with.
        """
        features = self._features(images, task)
        return self.task(task)(features if factor == 1 else scale_gradient(features, factor))

    def _features(self, images: Tensor | Bags, task: str) -> Any:
        """What the head of a task reads; raises ValueError for bags where it sees single images, and the other way."""
        needs, bag = self.needs(task), self.task(task).spec.bag
        if isinstance(images, Bags) != bool(bag):
            wanted = f"the images of a {bag} together: give umedpt_lightning.types.Bags" if bag else "single images"
            raise ValueError(f"Task {task!r} sees {wanted}, but was given {'single images' if bag else 'bags'}.")
        if isinstance(images, Bags):
            return self.weighed(images, task)[0]
        return self.block(needs)(self.pyramid(images, task))

    def weighed(self, bags: Bags, task: str) -> tuple[Tensor, list[Tensor]]:
        """Features ``(B, D)`` of bags, and how much each of their images counts: ``(n,)`` of each, 1 together."""
        found: tuple[Tensor, list[Tensor]]
        found = self.block(BAG)(self.instances(bags, task), bags.sizes, bags.positions)
        return found

    def instances(self, bags: Bags, task: str) -> Tensor:
        """The embeddings ``(N, D)`` of all images of bags, with gradients in the memory of one chunk."""
        chunk: Any = self.block(BAG).chunk
        if not is_frozen(self.encoder):
            self.kept = None  # it may be another when it is frozen again
            return in_chunks(lambda images: self.pooling(self.pyramid(images, task)), bags.images, chunk)

        def pooled(images: Tensor) -> Tensor:
            return self.pooling.pooled(self.pyramid(images, task))

        with torch.no_grad():
            if self.kept is not None and self.kept.has(task, self.training):
                kind = self.task(task).spec.value_range, task if self.encoder.depends_on_task else None
                found = self.kept(pooled, bags.images, kind)
            else:
                found = in_chunks(pooled, bags.images, chunk)
        normed: Tensor = self.pooling.norm(found)
        return normed

    def needs(self, task: str) -> str:
        """The shared block that a task reads: what its head needs, or that of bags."""
        head = self.task(task)
        return needs_of(head.spec, head.needs)

    def forward_pack(self, images: Sequence[Tensor | Bags], tasks: Sequence[str]) -> list[Any]:
        """The raw outputs of several heads, after one pass through the blocks that they share.

        Args:
            images: ``(B_i, C_i, H, W)`` in stored dtype and intensities, of one size; `Bags` alone.
            tasks: The task of each, all of which read the same features.
        """
        if len(tasks) == 1:
            return [self(images[0], tasks[0])]
        heads = [self.task(task) for task in tasks]
        pairs = zip(images, tasks, strict=True)
        together = torch.cat([self.normalise(i, task) for i, task in pairs if isinstance(i, Tensor)])
        features = self.block(heads[0].needs)(self._maps(together, None)).split([len(i) for i in images])
        return [head(part) for head, part in zip(heads, features, strict=True)]

    def compile_blocks(self) -> None:
        """Lets torch compile each shared block when it is first called; heads are too small to gain by it.

        Raises:
            ValueError: The encoder is one that cannot be compiled.
        """
        blocks = (self.pixel_decoder, self.detection_decoder, *self.blocks.values())
        for block in (*self.encoder.parts_to_compile(), *blocks):
            if block is not None:
                block.compile()  # in place: names of parameters stay as they are

    def predict(self, images: Sequence[Image], task: str, batch_size: int = 16) -> list[Any]:
        """Predictions for images as they are stored, of any sizes, in the user's terms and the images' own pixels.

        Args:
            images: Arrays or tensors ``(H, W)`` or ``(H, W, C)``; intensities as in the task's data. For a task of bags
                a sequence of such for each bag, in their order.
            task: The task's name.
            batch_size: At most so many images of one size at a time; of bags one.

        Returns:
            One for each image: probabilities ``(K,)`` or ``(L,)``, numbers ``(Q,)``, a mask ``(H, W)`` or
            `umedpt_lightning.tasks.Detections`, on the model's device.

        Raises:
            ValueError: There is no such task, an image is not of that form, or a prediction is not finite.
        """
        head, predictions = self.task(task).predicting(task), []
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but it must be 1 or more.")
        named, counts = named_images(images, bool(head.spec.bag))
        stored = [as_image(image, head.spec.channels, name) for name, image in named.items()]
        for name, image in zip(named, stored, strict=True):
            if warning := scale_warning(image, head.spec.value_range, name):
                warnings.warn(warning, stacklevel=2)
        sizes = [(image.shape[0], image.shape[1]) for image in stored]
        small = resized(stored, self.sizes.get(task))
        with _evaluating(self):
            in_order = "tiles" not in head.spec.cut  # whose places images alone do not say
            for start, batch in stacks(small, batch_size) if counts is None else one_by_one(small, counts, in_order):
                found, finite = self.predict_batch(batch, task, sizes[start : start + len(batch)])
                if not finite.all():
                    name = f"images[{start + int((~finite).int().argmax())}]"
                    raise ValueError(f"what task {task!r} gives for {name} is not finite. {NOT_FINITE}")
                predictions += found
        return predictions

    def predict_batch(
        self, images: Tensor | Bags, task: str, sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Any], Tensor]:
        """Predictions of a model in evaluation mode for images of the task's size, if it has one, see `predict`.

        Args:
            images: ``(B, C, H, W)`` in stored dtype and intensities, or bags of such.
            task: The task's name.
            sizes: Height and width of each before it was resized, pixels: the predictions are in these.

        Returns:
            One for each image, and ``(B,)`` bool whether what the head gave for it is finite, on the model's device.
        """
        head = self.task(task)
        with torch.inference_mode():
            output = self(images.to(head.device, non_blocking=True), task)
            found, finite = predictions_of(head, output, len(images)), finite_rows(output, len(images))
        shown = (images.shape[2], images.shape[3])
        return [head.resized(one, shown, size) for one, size in zip(found, sizes, strict=True)], finite

    def embed(self, images: Tensor | Bags, task: str) -> Tensor:
        """The embedding ``(B, D)`` of bags, or of images ``(B, C, H, W)`` as stored, scaled as those of `task`."""
        stored = images.images if isinstance(images, Bags) else images
        if stored.dtype != torch.uint8 and stored.numel():
            ends = torch.stack(stored.detach().float().aminmax()).cpu().numpy()
            ends = ends if stored.is_floating_point() else ends.astype("int64")
            if warning := scale_warning(ends, self.task(task).spec.value_range, "the batch"):
                warnings.warn(warning, stacklevel=2)
        if isinstance(images, Bags):
            return self.weighed(images, task)[0]
        embedding: Tensor = self.pooling(self.pyramid(images, task))
        return embedding

    def pyramid(self, images: Tensor, task: str) -> Pyramid:
        """The encoder's maps of images ``(B, C, H, W)`` in stored dtype."""
        return self._maps(self.normalise(images, task), task)

    def normalise(self, images: Tensor, task: str) -> Tensor:
        """Stored intensities to what the encoder expects, ``(B, in_channels, H, W)`` float32.

        The spec's `value_range` becomes 0 to 1, then mean and standard deviation of the encoder's weights are used.
        """
        low, high = self.task(task).spec.value_range
        scaled = (images.float() - low) / (high - low)
        return (scaled - self.encoder.mean) / self.encoder.std  # one channel is repeated by broadcasting

    def task(self, name: str) -> Task:
        """The task called `name`."""
        try:
            task = self.tasks[name]
        except KeyError:
            raise ValueError(f"The model has no task {name!r}. It has {', '.join(self.tasks)}.") from None
        return task  # type: ignore[return-value]  # a ModuleDict forgets what it holds

    def block(self, needs: str) -> nn.Module:
        """The shared block that turns a pyramid into the features of tasks with these `Task.needs`."""
        named = {"embedding": self.pooling, "pixels": self.pixel_decoder, "detection": self.detection_decoder}
        return named[needs] if needs in named else self.blocks[needs]  # type: ignore[return-value]  # a task needs it

    def _maps(self, images: Tensor, task: str | None) -> Pyramid:
        pyramid: Pyramid = self.encoder(images, task)
        decoders = self.pixel_decoder, self.detection_decoder
        check_pyramid(self.encoder, pyramid, images, any(one is not None for one in decoders))
        return pyramid


def as_model(encoder: BaseEncoder | nn.Module, *parts: Any, **more: Any) -> MultiTaskModel:
    """The model of an encoder and its other parts, which are as for `MultiTaskModel`; or the model that is given."""
    return encoder if isinstance(encoder, MultiTaskModel) else MultiTaskModel(encoder, *parts, **more)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
