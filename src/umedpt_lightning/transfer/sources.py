"""Where the weights that are compared come from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from umedpt_lightning.blocks import BatchNormMode, DetectionDecoder, Encoder, PixelDecoder
from umedpt_lightning.model import DetectionDecoderFactory, MultiTaskModel, PixelDecoderFactory, TaskFactory
from umedpt_lightning.types import TaskSpec


class Source(ABC):
    """Weights to start from."""

    @abstractmethod
    def build(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """A model with these weights and a new head for one task.

        Args:
            name: The task's name.
            spec: What its data say of themselves.
            task: How to build it; None for the default of its label type.
            seed: Of all that is random: the head, and whatever the source has no weights of.

        Raises:
            ValueError: The weights do not fit.
            FileNotFoundError: A file is missing.
        """


class TimmSource(Source):
    """Random weights, or those of timm or of a file of a timm model, ImageNet's for example.

    The embedding is the mean of the last map. The normalisation that `Pooling` puts behind it is left out: these
    weights were not trained with it, and it would take away how strong a response is.

    Args:
        name: Any timm model, as for `Encoder`.
        weights: ``None`` for random ones (others for every seed), ``"timm"`` to download, or a file; as for `Encoder`.
        in_channels: Channels it takes; images with one are repeated to that number.
        batch_norm: What becomes of BatchNorm; None for ``freeze`` where there are weights, whose statistics are better
            than those of few images, and ``group`` where there are none, since BatchNorm has no statistics yet.
        pixel_decoder: Builds the decoder for masks, from random weights; for a fair comparison the like of a
            checkpoint's.
        detection_decoder: Likewise for boxes.
    """

    def __init__(
        self,
        name: str,
        weights: Literal["timm"] | Path | None = None,
        in_channels: int = 3,
        batch_norm: Literal["keep", "freeze", "group"] | None = None,
        pixel_decoder: PixelDecoderFactory = PixelDecoder,
        detection_decoder: DetectionDecoderFactory = DetectionDecoder,
    ) -> None:
        self.name, self.weights, self.in_channels = name, weights, in_channels
        self.batch_norm: BatchNormMode = batch_norm or ("group" if weights is None else "freeze")
        self.pixel_decoder, self.detection_decoder = pixel_decoder, detection_decoder

    def build(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """As `Source.build`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = Encoder(self.name, self.in_channels, self.weights, self.batch_norm)
            options = task and {name: task}
            model = MultiTaskModel(encoder, {name: spec}, options, self.pixel_decoder, self.detection_decoder)
        model.pooling.norm = nn.Identity()  # type: ignore[assignment]
        return model


class CheckpointSource(Source):
    """The shared blocks of a checkpoint of `umedpt fit`: encoder, normalisation of the embedding, and decoders.

    Args:
        file: The ``.ckpt`` file.
        config: The run's ``config.yaml``, which describes the encoder; None for that of the folder above.
        statistics_of: The task of the run whose BatchNorm statistics are taken; needed if it kept them per task.
    """

    def __init__(self, file: Path, config: Path | None = None, statistics_of: str | None = None) -> None:
        self.file, self.statistics_of = file, statistics_of
        self.config = config or file.parent.parent / "config.yaml"

    def build(self, name: str, spec: TaskSpec, task: TaskFactory | None, seed: int) -> MultiTaskModel:
        """As `Source.build`."""
        for file, what in ((self.file, "checkpoint"), (self.config, "config of its run (or name it as `config`)")):
            if not file.is_file():
                raise FileNotFoundError(f"{file}: there is no such {what}. Correct the path.")
        described = yaml.safe_load(self.config.read_text(encoding="utf-8"))["model"]
        state = self._state()
        options: dict[str, Any] = {**_options(described.get("encoder"), "Encoder"), "weights": None}
        mode = options.get("batch_norm", "keep")
        # as few images as here would only spoil the statistics that the checkpoint has
        options["batch_norm"] = "freeze" if mode in ("keep", "per_task") else mode
        if mode == "per_task":
            state = self._of_one_task(state)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pixels = _options(described.get("pixel_decoder"), "PixelDecoder")
            detection = _options(described.get("detection_decoder"), "DetectionDecoder")
            model = MultiTaskModel(
                Encoder(**options),
                {name: spec},
                task and {name: task},
                lambda channels, strides: PixelDecoder(channels, strides, **pixels),
                lambda channels, strides: DetectionDecoder(channels, strides, **detection),
            )
        for block, module in model.named_children():
            if block != "tasks":
                self._load(block, module, state)
        return model

    def _state(self) -> dict[str, Tensor]:
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            state: dict[str, Tensor] = content["state_dict"]
        except Exception as error:  # torch raises many kinds here
            raise ValueError(f"{self.file}: not a checkpoint of `umedpt fit` ({error}). Give another file.") from error
        return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}

    def _of_one_task(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = sorted({key.split(".by_task.")[1].split(".")[0] for key in state if ".by_task." in key})
        if self.statistics_of not in kept:
            raise ValueError(
                f"{self.file}: the run kept BatchNorm statistics per task, and `statistics_of` is "
                f"{self.statistics_of!r}. Name the task that is most like the new one: {', '.join(kept)}."
            )
        own = f".by_task.{self.statistics_of}."
        return {key.replace(own, "."): value for key, value in state.items() if ".by_task." not in key or own in key}

    def _load(self, block: str, module: nn.Module, state: dict[str, Tensor]) -> None:
        of_block = {key.removeprefix(f"{block}."): v for key, v in state.items() if key.startswith(f"{block}.")}
        if not of_block and block != "encoder":
            return  # no task of the run needed it: it starts from random weights
        try:
            module.load_state_dict(of_block)
        except RuntimeError as error:
            raise ValueError(
                f"{self.file}: its {block} is not that of {self.config} ({error}). Give the config of its run as "
                "`config`."
            ) from error


def _options(described: Any, name: str) -> dict[str, Any]:
    """The options of an object in a run's config."""
    if described is None:
        return {}
    class_path = str(described["class_path"])
    if class_path.rpartition(".")[2] != name:
        raise ValueError(f"The config of the run describes a {class_path}, but transfer knows the {name} alone.")
    options: dict[str, Any] = described.get("init_args") or {}
    return options


def weights_digest(model: MultiTaskModel) -> str:
    """A text that is equal for shared blocks that compute the same: of their structure, weights and statistics."""
    digest = hashlib.sha256()
    for block, module in model.named_children():
        if block == "tasks":
            continue
        digest.update(repr(module).encode())
        for key, value in module.state_dict().items():
            digest.update(f"{block}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(f"{model.encoder.mean} {model.encoder.std}".encode())
    return digest.hexdigest()[:32]
