"""A model as a folder: ``config.json``, ``model.safetensors`` and ``README.md``; nothing in it is ever run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import save_file, save_model
from torch import nn

from umedpt_lightning.blocks import BaseEncoder
from umedpt_lightning.io.atomic import atomic_write, write_text
from umedpt_lightning.pretrained.card import model_card
from umedpt_lightning.pretrained.construction import model_arguments, model_config
from umedpt_lightning.pretrained.loading import CONFIG, FORMAT, VERSION, WEIGHTS, read_saved_model

ENCODER = "encoder.safetensors"


class PretrainedModel(ModelHubMixin, nn.Module):
    """A model of shared blocks and tasks that can be written and read; also has `push_to_hub`.

    Attributes:
        encoder: The shared encoder.
        pixel_decoder: The shared pixel decoder; None where no task needs it.
        detection_decoder: The shared detection decoder; None where no task needs it.
        blocks: Further shared blocks, by what tasks need.
        tasks: A task for every name.
        sizes: Height and width that a task's images are resized to; a task left out takes them as they are.
    """

    encoder: BaseEncoder
    pixel_decoder: nn.Module | None
    detection_decoder: nn.Module | None
    blocks: nn.ModuleDict
    tasks: nn.ModuleDict
    sizes: dict[str, tuple[int, int]]

    def model_config(self) -> dict[str, Any]:
        """How the model is built again, in types of JSON; see `construction.model_config`."""
        decoders = {"pixel_decoder": self.pixel_decoder, "detection_decoder": self.detection_decoder}
        tasks: Any = dict(self.tasks.items())  # a ModuleDict forgets what it holds
        return model_config(self.encoder, decoders, dict(self.blocks.items()), tasks, self.sizes)

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
        encoder = self.encoder.plain_state()
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
        """The model of a run, of a checkpoint or of a model's folder, in evaluation mode, on the CPU.

        Args:
            pretrained_model_name_or_path: The folder of a run, whose best checkpoint is taken, a checkpoint, the folder
                of a model, or the name of a model on the Hugging Face Hub.
            classes: Tasks, specs or blocks of one's own that its config may name beside those of the package.
            download: For ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

        Raises:
            FileNotFoundError: A file is not there.
            ConnectionError: There is nothing of that name here, and it cannot be downloaded.
            ValueError: A file is broken, of another version, names what is not known, or does not fit the others.
        """
        saved = read_saved_model(pretrained_model_name_or_path, **download)
        if saved.config is None:
            raise ValueError(
                f"{saved.weights} does not say how its model is built: it is of an older release, or a class of your "
                "own does not keep its options (derive it from umedpt_lightning.hparams.HParamsMixin) or has some that "
                "are not numbers, strings, lists or mappings. Mend the class and train again."
            )
        try:
            model = cls(**model_arguments(saved.config, classes))
        except ValueError as error:
            raise ValueError(f"The config of {saved.weights}: {error}") from error
        try:
            model.load_state_dict(saved.state)
        except RuntimeError as error:
            raise ValueError(
                f"{saved.weights} cannot be loaded into the model that its config describes ({error!s:.300}). Copy "
                "all files of one folder again."
            ) from error
        return model.eval()
