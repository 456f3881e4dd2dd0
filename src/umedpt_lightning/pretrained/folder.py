"""A model as a folder: ``config.json``, ``model.safetensors`` and ``README.md``; nothing in it is ever run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from safetensors.torch import load_model, save_file, save_model
from torch import nn

from umedpt_lightning.blocks import DetectionDecoder, Encoder, PixelDecoder
from umedpt_lightning.io.atomic import atomic_write, write_text
from umedpt_lightning.pretrained.card import model_card
from umedpt_lightning.pretrained.construction import model_arguments, model_config
from umedpt_lightning.pretrained.encoder_state import timm_state

CONFIG, WEIGHTS, ENCODER = "config.json", "model.safetensors", "encoder.safetensors"
#: Of ``config.json``; one more whenever what is written cannot be read by an older release.
FORMAT, VERSION = "umedpt-lightning", 1


class PretrainedModel(ModelHubMixin, nn.Module):
    """A model of shared blocks and tasks that can be written and read; also has `push_to_hub`.

    Attributes:
        encoder: The shared encoder.
        pixel_decoder: The shared pixel decoder; None where no task needs it.
        detection_decoder: The shared detection decoder; None where no task needs it.
        tasks: A task for every name.
        sizes: Height and width that a task's images are resized to; a task left out takes them as they are.
    """

    encoder: Encoder
    pixel_decoder: PixelDecoder | None
    detection_decoder: DetectionDecoder | None
    tasks: nn.ModuleDict
    sizes: dict[str, tuple[int, int]]

    def model_config(self) -> dict[str, Any]:
        """How the model is built again, in types of JSON; see `construction.model_config`."""
        decoders = {"pixel_decoder": self.pixel_decoder, "detection_decoder": self.detection_decoder}
        tasks: Any = dict(self.tasks.items())  # a ModuleDict forgets what it holds
        return model_config(self.encoder, decoders, tasks, self.sizes)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes config and weights; called by `save_pretrained`, which adds the card."""
        config = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"umedpt-lightning {version('umedpt-lightning')}",
            "model": self.model_config(),
        }
        text = json.dumps(config, indent=2, allow_nan=False)  # before anything is written
        with atomic_write(save_directory / WEIGHTS) as unfinished:
            save_model(self, str(unfinished), metadata={"format": "pt"})
        encoder = timm_state(self.encoder)
        if encoder is not None:
            with atomic_write(save_directory / ENCODER) as unfinished:
                save_file(encoder, unfinished, metadata={"format": "pt"})
        write_text(save_directory / CONFIG, text + "\n")

    def generate_model_card(
        self, data: Mapping[str, str] | None = None, metrics: Mapping[str, Any] | None = None
    ) -> ModelCard:
        """The card that `save_pretrained` writes where there is none yet; see `card.model_card`."""
        tasks: Any = dict(self.tasks.items())
        return model_card(self.encoder, tasks, data or {}, metrics or {})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, classes: Iterable[type] = (), **download: Any
    ) -> Self:
        """The model of a folder, in evaluation mode, on the CPU.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a model on the Hugging Face Hub.
            classes: Tasks, specs or blocks of one's own that its config may name beside those of the package.
            download: For ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

        Raises:
            FileNotFoundError: A file is not there.
            ConnectionError: It is no folder here, and cannot be downloaded.
            ValueError: A file is broken, of another version, names what is not known, or does not fit the others.
        """
        folder = _folder(str(pretrained_model_name_or_path), download)
        parts = _parts(folder / CONFIG, classes)
        try:
            model = cls(**parts)
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG}: {error}") from error
        _fill(model, folder / WEIGHTS)
        return model.eval()


def _folder(name: str, download: Mapping[str, Any]) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, **{"allow_patterns": [CONFIG, WEIGHTS], **download}))
    except Exception as error:  # the Hub's client raises many kinds
        raise ConnectionError(
            f"There is no folder {name}, and no model of that name could be had from the Hugging Face Hub "
            f"({type(error).__name__}: {error!s:.200}). Give a folder with {CONFIG} and {WEIGHTS}, or check the "
            "name and the connection."
        ) from error


def _parts(file: Path, classes: Iterable[type]) -> dict[str, Any]:
    """The constructor's arguments."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: a model's folder has {CONFIG} and {WEIGHTS}.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}). Copy the folder again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a model of umedpt-lightning: it lacks `format: {FORMAT}`.")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {config.get('version')!r}, but this release reads version {VERSION}. It was written "
            f"by {config.get('written_by')!r}: use a release near to that."
        )
    try:
        return model_arguments(config.get("model"), classes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _fill(model: nn.Module, file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: a model's folder has {CONFIG} and {WEIGHTS}.")
    try:
        load_model(model, file)
    except Exception as error:  # safetensors' own for a broken file, torch's where names or shapes do not fit
        raise ValueError(
            f"{file} cannot be loaded into the model that {CONFIG} describes ({error!s:.300}). Copy both files of "
            "one folder again."
        ) from error
