"""What the page shows of an image: the model's predictions, as HTML in which no name becomes a tag."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of
from PIL import Image

from umedpt_lightning.app.neighbours import NearestSamples
from umedpt_lightning.app.service import NEAREST, AppService, Query, Samples
from umedpt_lightning.io.arrays import as_tensor, resized
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Detections
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec, to_numpy

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
TASKS = [f"a_{kind}" for kind in KINDS]
#: Elements that have no end.
VOID = {"img", "input", "image", "rect"}


class _Reader(HTMLParser):
    """Text of a page, its tags, and whether each that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def _named(kind: str, name: str) -> TaskSpec:
    """A spec of one channel in which everything has that name."""
    names = (f"{name}0", f"{name}1")
    match kind:
        case "class":
            return ClassSpec(channels=1, classes=names)
        case "multilabel":
            return MultilabelSpec(channels=1, labels=names)
        case "regression":
            return RegressionSpec(channels=1, quantities=names, units=(name, name), means=(1.0, 2.0), stds=(1.0, 1.0))
        case "mask":
            return MaskSpec(channels=1, classes=("nothing", *names))
        case _:
            return BoxSpec(channels=1, classes=names)


def _model(name: str = "n") -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": _named(kind, name) for kind in KINDS}
    model = MultiTaskModel(
        small_encoder(in_channels=1),
        specs,
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=SMALL_DETECTION,
        sizes={"a_class": (32, 32)},
    )
    with torch.no_grad():  # an untrained detector finds nothing
        model.tasks["a_box"].fcos.head.classification_head.cls_logits.bias.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    return _model()


@pytest.fixture
def image(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def _predicted(model: MultiTaskModel, task: str, image: str) -> Any:
    return to_numpy(model.predict([np.array(Image.open(image))], task)[0])


def test_every_task_is_answered_as_the_model_predicts(model: MultiTaskModel, image: str) -> None:
    page = _Reader(AppService(model).answers(image, Query(TASKS, least_score=0.05)))
    assert [values["data-task"] for tag, values in page.tags if tag == "section"] == TASKS
    for task in ("a_class", "a_multilabel"):
        for probability in _predicted(model, task, image):
            assert f"{probability:.1%}" in page.text
    for value in _predicted(model, "a_regression", image):
        assert f"{value:.4g}  n" in page.text, "with its unit"
    mask = _predicted(model, "a_mask", image)
    for index in (1, 2):
        assert f"{(mask == index).mean():.1%} of the image, {(mask == index).sum()} px" in page.text
    found = _predicted(model, "a_box", image)
    assert len(found.boxes) > 0, "the test would show nothing"
    assert sum(values.get("class") == "u-box" for _, values in page.tags) == len(found.boxes)


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.9])
def test_boxes_below_the_threshold_are_counted_and_left_out(threshold: float) -> None:
    scores = np.array([0.8, 0.5, 0.3, 0.2], np.float32)
    found = Detections(np.tile(np.array([1.0, 2, 3, 4]), (4, 1)), scores, np.array([0, 1, 0, 0]))  # type: ignore[arg-type]
    shown = spec_of("box", count=2).page_view(found, threshold)
    assert [entry.amount for entry in shown.legend] == [
        str(int(((found.labels == i) & (scores >= threshold)).sum())) for i in range(2)
    ]
    fainter = scores[scores < threshold]
    assert [note.split()[0] for note in shown.notes] == ([str(len(fainter))] if len(fainter) else [])


def test_a_box_is_drawn_where_it_lies(model: MultiTaskModel, image: str) -> None:
    page = _Reader(AppService(model).answers(image, Query(["a_box"], least_score=0.05)))
    view = next(values["viewbox"] for tag, values in page.tags if tag == "svg").split()
    scale = float(view[2]) / 70
    assert scale == int(scale) == float(view[3]) / 50 > 1
    best = _predicted(model, "a_box", image).boxes[0]
    drawn = [values for _, values in page.tags if values.get("class") == "u-box"][-1]  # the best is on top
    corner = np.array([float(drawn[key]) for key in ("x", "y", "width", "height")]) / scale
    np.testing.assert_allclose(corner, [*best[:2], *(best[2:] - best[:2])], atol=0.02)


def test_a_name_never_becomes_a_tag(image: str) -> None:
    model = _model(HOSTILE)
    ids = [f"{HOSTILE}{i}" for i in range(3)]
    samples = NearestSamples(ids, ids, np.eye(3, model.encoder.channels[-1], dtype=np.float32))
    service = AppService(model, Samples(samples, Path(image).parent, "a_class"))
    page = _Reader(service.answers(image, Query(TASKS, least_score=0.05)))
    assert page.text.count("onerror=alert(1)") > len(TASKS)
    assert not [values for _, values in page.tags if any(key.startswith("on") for key in values)]
    sources = {values["src"] for tag, values in page.tags if tag == "img"}
    assert all(source.startswith("data:image/png") for source in sources)


def test_what_fails_is_told_beside_the_other_answers(
    model: MultiTaskModel, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.predict
    for error, message in {
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"): "not enough memory",
        RuntimeError("something odd"): "could not be computed (RuntimeError: something odd)",
        ValueError("no such size"): "no such size",
    }.items():

        def predict(images: Any, task: str, error: Exception = error) -> Any:
            if task == "a_mask":
                raise error
            return whole(images, task)

        monkeypatch.setattr(model, "predict", predict)
        page = _Reader(AppService(model).answers(image, Query(["a_class", "a_mask", "a_multilabel"])))
        assert message in page.text
        assert "Traceback" not in page.text
        assert len(re.findall(r"\d\.\d%", page.text)) == 4, "probabilities of the two others"


def test_an_answer_that_is_no_number_is_told(image: str) -> None:
    model = _model()
    with torch.no_grad():
        model.tasks["a_class"].head.bias.fill_(float("nan"))
    assert "is not finite" in AppService(model).answers(image, Query(["a_class"]))


def test_missing_and_bad_input_is_told_without_a_traceback(model: MultiTaskModel, tmp_path: Path, image: str) -> None:
    (tmp_path / "bad.png").write_bytes(Path(image).read_bytes()[:100])
    service = AppService(model)
    for file, query, message in (
        (None, Query(TASKS), "no image yet"),
        (image, Query([]), "No task is chosen"),
        (str(tmp_path / "bad.png"), Query(TASKS), "bad.png: not an image"),
    ):
        page = _Reader(service.answers(file, query))
        assert message in page.text
        assert [values.get("role") for _, values in page.tags] == ["alert"]
    assert "not an image" in service.preview(str(tmp_path / "bad.png"))
    assert service.preview(None) == ""


def test_the_preview_says_what_the_file_holds(model: MultiTaskModel, tmp_path: Path) -> None:
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(tmp_path / "deep.png")
    page = _Reader(AppService(model).preview(str(tmp_path / "deep.png")))
    assert "30 x 20 px, grey, uint16, intensities 0 to 599" in page.text


def test_the_image_itself_is_its_nearest_sample_and_is_shown(model: MultiTaskModel, tmp_path: Path, image: str) -> None:
    rng = np.random.default_rng(1)
    width = model.encoder.channels[-1]
    pixels = np.array(Image.open(image))

    batch = as_tensor(resized([pixels[..., None]], (32, 32)))
    with torch.inference_mode():
        own = model.embed(batch, "a_class").numpy()
    others = rng.normal(size=(8, width)).astype(np.float32)
    ids = ["image.png", "../image.png", "missing.png", "volume.nii.gz", *"abcd", "e"]
    samples = NearestSamples(ids, [""] * 9, np.concatenate([own, others]))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "image.png").write_bytes(Path(image).read_bytes())
    page = _Reader(AppService(model, Samples(samples, tmp_path / "inside", "a_class")).answers(image, Query([])))
    assert page.words.index("1.0000") < page.words.index("image.png")
    assert sum(tag == "li" for tag, _ in page.tags) == NEAREST
    assert sum(tag == "img" for tag, _ in page.tags) == 1, "no other is an image file inside of the folder"
    assert "1.0000" not in AppService(model, Samples(samples, None, "a_class")).answers(
        image, Query(TASKS, neighbours=False)
    )


def test_samples_of_another_model_or_task_are_told_at_once(model: MultiTaskModel) -> None:
    few = NearestSamples(["a"], [""], np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="have 3 numbers"):
        AppService(model, Samples(few, None, "a_class"))
    fit = NearestSamples(["a"], [""], np.ones((1, model.encoder.channels[-1]), np.float32))
    with pytest.raises(ValueError, match="no task 'other'"):
        AppService(model, Samples(fit, None, "other"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_type_has_a_word(kind: str) -> None:
    assert spec_of(kind).phrase


def test_a_task_of_bags_sees_all_images_together(tmp_path: Path) -> None:
    specs = {"one": spec_of("class"), "many": ClassSpec(channels=3, classes=("a", "b"), bag="patient")}
    model = MultiTaskModel(small_encoder(), specs).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    names = [tmp_path / f"{i}.png" for i in (10, 2, 1)]
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image).save(name)
    html = AppService(model).answers([*map(str, names)], Query(["one", "many"]))
    page = _Reader(html)
    assert "one looks at one image, but 3 were dropped" in page.text
    share = float(model.predict([images[::-1]], "many")[0][1])
    assert f"{share:.1%}" in page.text.replace(" %", "%"), "as the images lie by their names"
    assert any(tag == "img" and "count most for many" in attributes["alt"] for tag, attributes in page.tags)
    assert "and 2 more" in AppService(model).preview([*map(str, names)])
    alone = _Reader(AppService(model).answers(str(names[0]), Query(["one", "many"])))
    assert "looks at one image" not in alone.text


def test_neighbours_of_bags_are_refused() -> None:
    specs = {"many": ClassSpec(channels=3, classes=("a", "b"), bag="patient")}
    model = MultiTaskModel(small_encoder(), specs)
    samples = NearestSamples(["a"], [""], np.ones((1, model.encoder.channels[-1]), np.float32))
    with pytest.raises(ValueError, match=r"'many' has bags.*Embed the samples by a task of single images"):
        AppService(model, Samples(samples, None, "many"))
