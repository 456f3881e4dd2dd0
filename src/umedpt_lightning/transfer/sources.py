"""The weights that are compared."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks import (
    BaseEncoder,
    BatchNormMode,
    DetectionDecoder,
    Encoder,
    PixelDecoder,
    ViTEncoder,
    as_encoder,
)
from umedpt_lightning.blocks.timm_encoder import Embedding, is_plain_vit
from umedpt_lightning.data.formats.text_files import read_yaml
from umedpt_lightning.model import DetectionDecoderFactory, MultiTaskModel, PixelDecoderFactory, TaskFactory
from umedpt_lightning.pretrained import SavedModel, model_arguments, read_saved_model
from umedpt_lightning.tasks import ImitateEmbedding, Teacher
from umedpt_lightning.transfer.teachers import FrozenModel
from umedpt_lightning.types import TaskSpec


class WeightSource(Teacher):
    """Weights to start from, or to imitate."""

    @abstractmethod
    def create_model(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """A model with these weights and a new head for one task, the default of its label kind without a factory.

        The seed is that of all that is random: the head, and whatever the source has no weights of.

        Raises:
            ValueError: The weights do not fit.
            FileNotFoundError: A file is missing.
        """

    def open_teacher(self, spec: TaskSpec) -> FrozenModel:
        """As `Teacher.open_teacher`."""
        model = self.create_model("teacher", spec, partial(ImitateEmbedding, channels=1), seed=0)  # the least of heads
        return FrozenModel(model, spec, "teacher")


class TimmSource(WeightSource):
    """Random weights, or those of timm or of a file of a timm model, ImageNet's for example.

    The embedding is the mean of the last map, of a vision transformer what `ViTEncoder` says. The normalisation that
    `Pooling` puts behind it is left out: these weights were not trained with it, and it would take away how strong a
    response is.

    Args:
        name: Any timm model, as for `Encoder`.
        weights: ``None`` for random ones (others for every seed), ``"timm"`` to download, or a file; as for `Encoder`.
        in_channels: Channels it takes; images with one are repeated to that number.
        batch_norm: What becomes of BatchNorm; None for ``freeze`` where there are weights, whose statistics are better
            than those of few images, and ``group`` where there are none, since BatchNorm has no statistics yet.
        pixel_decoder: Builds the decoder for masks, from random weights; for a fair comparison the like of a
            checkpoint's.
        detection_decoder: Likewise for boxes.
        embedding: Of a vision transformer, as for `ViTEncoder`.
    """

    def __init__(
        self,
        name: str,
        weights: Literal["timm"] | Path | None = None,
        in_channels: int = 3,
        batch_norm: Literal["keep", "freeze", "group"] | None = None,
        pixel_decoder: PixelDecoderFactory = PixelDecoder,
        detection_decoder: DetectionDecoderFactory = DetectionDecoder,
        embedding: Embedding | None = None,
    ) -> None:
        self.embedding = embedding
        self.name, self.weights, self.in_channels = name, weights, in_channels
        self.batch_norm: BatchNormMode = batch_norm or ("group" if weights is None else "freeze")
        self.pixel_decoder, self.detection_decoder = pixel_decoder, detection_decoder

    @property
    def origin(self) -> str:
        """As `Teacher.origin`."""
        return f"{self.name} with {'random weights' if self.weights is None else self.weights}"

    def create_model(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """As `WeightSource.create_model`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder: BaseEncoder
            if is_plain_vit(self.name):
                encoder = ViTEncoder(self.name, self.in_channels, self.weights, self.embedding)
            else:
                encoder = Encoder(self.name, self.in_channels, self.weights, self.batch_norm)
            options = task and {name: task}
            model = MultiTaskModel(encoder, {name: spec}, options, self.pixel_decoder, self.detection_decoder)
        model.pooling.norm = nn.Identity()  # type: ignore[assignment]
        return model


class PretrainedSource(WeightSource):
    """The shared blocks of a model of this package: encoder, normalisation of the embedding, and decoders.

    Args:
        path: The folder of a run, whose best checkpoint is taken, a checkpoint, the folder of a model, or the name of a
            model on the Hugging Face Hub.
        statistics_of: The task whose BatchNorm statistics are taken; needed if the model kept them per task.
        classes: Encoders and decoders of one's own that the model has, as ``package.module.Class``.
    """

    def __init__(self, path: str, statistics_of: str | None = None, classes: Sequence[type] = ()) -> None:
        self.path, self.statistics_of, self.classes = path, statistics_of, tuple(classes)

    @property
    def origin(self) -> str:
        """As `Teacher.origin`."""
        return self.path

    def create_model(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """As `WeightSource.create_model`."""
        saved = read_saved_model(self.path)
        config = self._config(saved)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            arguments = model_arguments({**config, "tasks": {}}, self.classes)
            encoder = as_encoder(arguments["encoder"])
            encoder.bind(list(config["tasks"]))
            _load(saved.weights, "encoder", encoder, saved.state)
            # as few images as here would only spoil the statistics that there are
            encoder.freeze_statistics(self.statistics_of)
            replaced = {"encoder": encoder, "specs": {name: spec}, "tasks": task and {name: task}}
            model = MultiTaskModel(**{**arguments, **replaced})
        shared = {name: module for name, module in model.named_children() if name not in ("tasks", "encoder", "blocks")}
        # each by itself: the model had others too, of tasks that this one does not have
        shared |= {f"blocks.{name}": module for name, module in model.blocks.items()}
        for block, module in shared.items():
            _load(saved.weights, block, module, saved.state)
        return model

    def _config(self, saved: SavedModel) -> dict[str, Any]:
        """How the blocks of a model are built."""
        if saved.config is None:
            raise ValueError(
                f"{saved.weights} does not say how its model is built, as those of older releases do not. Use a "
                "CheckpointSource, which reads that from the run's config.yaml."
            )
        return saved.config


class CheckpointSource(PretrainedSource):
    """The shared blocks of a checkpoint of `umedpt fit`.

    Args:
        file: The ``.ckpt`` file, or anything else that a `PretrainedSource` takes.
        config: The run's ``config.yaml``, for a checkpoint of an older release that does not say how its model is
            built; None for that of the folder above. Deprecated for other checkpoints.
        statistics_of: As for `PretrainedSource`.
        classes: Likewise.
    """

    def __init__(
        self,
        file: str,
        config: Path | None = None,
        statistics_of: str | None = None,
        classes: Sequence[type] = (),
    ) -> None:
        super().__init__(str(file), statistics_of, classes)
        self.config = config

    def _config(self, saved: SavedModel) -> dict[str, Any]:
        if saved.config is not None:
            if self.config is not None:
                warnings.warn(
                    f"CheckpointSource: {saved.weights} says itself how its model is built, so `config` is not read. "
                    "Leave it out, since the next release will not take it.",
                    FutureWarning,
                    stacklevel=2,
                )
            return super()._config(saved)
        file = self.config or saved.weights.parent.parent / "config.yaml"
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: there is no such config, and {saved.weights} does not say how its model is built. Give the "
                "config of its run as `config`."
            )
        described = read_yaml(file)
        config = {"encoder": {"class": "Encoder", "options": {}}, "tasks": described["data"]["tasks"]}
        for name in ("encoder", "pixel_decoder", "detection_decoder"):
            if block := described["model"].get(name):
                options = {key: value for key, value in (block.get("init_args") or {}).items() if key != "weights"}
                config[name] = {"class": str(block["class_path"]).rpartition(".")[2], "options": options}
        return config


def _load(weights: Path, block: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a block's part of the state of a model."""
    of_block = {key.removeprefix(f"{block}."): v for key, v in state.items() if key.startswith(f"{block}.")}
    if not of_block and block != "encoder":
        return  # the model had no task that needed it: it starts from random weights
    try:
        module.load_state_dict(of_block)
    except RuntimeError as error:
        raise ValueError(
            f"The {block} of {weights} is not that of its config ({error!s:.300}). Give the config of its run."
        ) from error
