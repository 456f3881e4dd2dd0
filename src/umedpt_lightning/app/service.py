"""What the page asks for: files in, HTML out, and a message for whatever goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from umedpt_lightning.app import cards
from umedpt_lightning.app.cards import PAGE, THUMBNAIL, Picture, figure, shown
from umedpt_lightning.app.neighbours import NearestSamples
from umedpt_lightning.app.uploads import Array, for_task, load
from umedpt_lightning.data.formats.images import image_suffixes
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.drawing.attention import draw_attention, most_attended
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.io.arrays import as_image, as_tensor, resized
from umedpt_lightning.model import NOT_FINITE, MultiTaskModel
from umedpt_lightning.types import to_numpy
from umedpt_lightning.types.bags import one_by_one

#: A file that was dropped, several, or none.
Files: TypeAlias = str | Sequence[str] | None
_log = logging.getLogger(__name__)
#: Samples shown beside an image.
NEAREST = 6


@dataclass(frozen=True)
class Samples:
    """Samples to look for neighbours among.

    Attributes:
        nearest: Their embeddings.
        images: Where their images are; None where there are none to show.
        task: The task whose images they are: the image in question is resized and scaled like those.
    """

    nearest: NearestSamples
    images: Path | None
    task: str


@dataclass(frozen=True)
class Query:
    """What a user wants to know of an image.

    Attributes:
        tasks: Names of tasks.
        least_score: Boxes with a lower score are not shown.
        stretch: Map the image's intensities to the range that a task was trained on.
        neighbours: Show the nearest samples.
    """

    tasks: Sequence[str]
    least_score: float = 0.5
    stretch: bool = False
    neighbours: bool = True


class AppService:
    """Answers the page's questions on a model, with `samples` to look for neighbours among, if wanted.

    Raises ValueError where their embeddings are of another width than the model's, or of bags, or their task is not the
    model's.
    """

    def __init__(self, model: MultiTaskModel, samples: Samples | None = None) -> None:
        self.model = model.eval()
        self.samples = samples
        if samples is not None:
            if model.task(samples.task).spec.bag:
                raise ValueError(
                    f"Task {samples.task!r} has bags, whose embeddings are like no image's: there are no neighbours to "
                    "show. Embed the samples by a task of single images."
                )
            width = model.encoder.embedding_channels
            if samples.nearest.width != width:
                raise ValueError(
                    f"The samples' embeddings have {samples.nearest.width} numbers, but the model's have {width}: they "
                    "are of another model. Make them again with this one."
                )

    def preview(self, files: Files) -> str:
        """The image of a file, the first of several, and what is known of it."""
        if not (paths := _paths(files)):
            return ""
        try:
            image = load(paths[0])
            height, width, channels = image.shape
            facts = f"{width} x {height} px, {'grey' if channels == 1 else 'colour'}, {image.dtype}, "
            facts += f"intensities {image.min():g} to {image.max():g}"
            more = [f"and {len(paths) - 1} more, for tasks that see several images together"] if paths[1:] else []
            return figure(shown(image), None, {}, "the image") + cards.notes([facts, *more])
        except Exception as error:
            return _problem(error)

    def answers(self, files: Files, query: Query) -> str:
        """What the model says of a file's image, or of several images together where a task has bags, task by task."""
        if not (paths := _paths(files)):
            return cards.problem("There is no image yet: drop one first.")
        if not query.tasks and not (self.samples and query.neighbours):
            return cards.problem("No task is chosen: tick at least one.")
        try:
            for path in paths:
                load(path)
        except Exception as error:
            return _problem(error)
        parts = [self._task(name, paths, query) for name in query.tasks]
        if self.samples and query.neighbours:
            parts.append(self._neighbours(paths[0], self.samples, query.stretch))
        return "".join(parts)

    def _task(self, name: str, paths: Sequence[Path], query: Query) -> str:
        spec = self.model.task(name).spec
        try:
            if paths[1:] and not spec.bag:
                raise ValueError(f"{name} looks at one image, but {len(paths)} were dropped. Drop one.")
            seen = [self._seen(path, name, query.stretch) for path in paths]
            pictures, given = [one[0] for one in seen], [one[1] for one in seen]
            images: list[Any] = [given] if spec.bag else given
            prediction = to_numpy(self.model.predict(images, name)[0])
            found = spec.page_view(prediction, query.least_score)
            notes = [*dict.fromkeys(note for one in seen for note in one[2])]
            html = cards.notes(notes) + cards.body(found, pictures[0], f"{name}, over the image")
            html += cards.notes(found.notes) + (self._attention(name, pictures, given) if spec.bag else "")
        except Exception as error:
            html = _problem(error)
        return cards.card(name, spec.phrase, html)

    def _attention(self, name: str, pictures: Sequence[Picture], given: Sequence[Array]) -> str:
        """How much each image of a bag counts."""
        spec, size = self.model.task(name).spec, self.model.sizes.get(name)
        stored = resized([as_image(image, spec.channels, "the image") for image in given], size)
        ((_, bags),) = one_by_one(stored, [len(stored)], "tiles" not in spec.cut)
        with torch.inference_mode():
            _, (found,) = self.model.weighed(bags.to(self.model.encoder.mean.device), name)
        weights = to_numpy(found)
        drawn = draw_attention([pictures[i].pixels for i in most_attended(weights)], weights, None, PAGE[0])
        return cards.picture(np.asarray(drawn), f"the images that count most for {name}, with their shares")

    def _seen(self, file: Path, task: str, stretch: bool) -> tuple[Picture, Array, list[str]]:
        """A file's image as a task opens it and as it takes it, and what the user should know about it."""
        spec, size = self.model.task(task).spec, self.model.sizes.get(task)
        image = load(file, Opening.as_trained(spec, size))
        return shown(image), *for_task(image, spec, size, stretch)

    def _neighbours(self, file: Path, samples: Samples, stretch: bool) -> str:
        try:
            _, given, _ = self._seen(file, samples.task, stretch)
            spec, size = self.model.task(samples.task).spec, self.model.sizes.get(samples.task)
            batch = as_tensor(resized([as_image(given, spec.channels, "the image")], size))
            with torch.inference_mode():
                vector = to_numpy(self.model.embed(batch.to(self.model.encoder.mean.device), samples.task)[0])
            if not np.isfinite(vector).all():
                raise ValueError(f"The embedding of the image is not finite. {NOT_FINITE}")
            found = samples.nearest(vector, NEAREST)
            html = cards.neighbours(found, [_thumbnail(samples.images, one.id) for one in found])
        except Exception as error:
            html = _problem(error)
        return cards.card("nearest samples", f"cosine of the embeddings, as images of {samples.task}", html)


def _paths(files: Files) -> list[Path]:
    """The files in natural order of their names, as readers have them."""
    given = [files] if isinstance(files, str) else files or []
    return sorted(map(Path, given), key=lambda path: natural_key(path.name))


def _thumbnail(folder: Path | None, name: str) -> Picture | None:
    """The picture of a sample; None where its name is not that of an image file inside of the folder."""
    if folder is None:
        return None
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()) or file.suffix.lower() not in image_suffixes() or not file.is_file():
        return None
    try:
        return shown(load(file), THUMBNAIL)
    except (ValueError, OSError):
        return None


def _problem(error: Exception) -> str:
    """What the page says of an error; what no user can mend is in the log as well."""
    if isinstance(error, ValueError):
        return cards.problem(str(error))
    _log.error("an answer failed", exc_info=error)
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return cards.problem("There is not enough memory for this image. Cut out the part of interest.")
    return cards.problem(f"This could not be computed ({type(error).__name__}: {error!s:.200}).")
