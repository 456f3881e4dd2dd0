"""The page as a user sees it, in Chromium, on real images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, serving
from builders import SMALL_DETECTION, SMALL_PIXELS, small_encoder
from PIL import Image

from umedpt_lightning.app.service import Query
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, RegressionSpec, to_numpy

pytestmark = pytest.mark.slow

#: Text that a browser, or one of the two template languages in gradio's, would do something with.
HOSTILE = ("<img src=x onerror=\"document.title='broken'\">", "${document.title='broken'}", "{{value}}")


@pytest.fixture(scope="module", autouse=True)
def _needs_gradio() -> None:
    """Imports it for the tests that run, since it takes seconds, which a collection need not."""
    pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def cells(shared_data: Path) -> Path:
    return sorted((shared_data / "bccd" / "images").glob("*.jpg"))[0]


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {
        "stain": ClassSpec(channels=3, classes=HOSTILE),
        "cells": BoxSpec(channels=3, classes=("red", "white", "platelet")),
        "area": MaskSpec(channels=3, classes=("background", "nucleus")),
        "density": RegressionSpec(channels=3, quantities=("cells",), units=("1/mm²",), means=(100.0,), stds=(20.0,)),
    }
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    model = MultiTaskModel(small_encoder(), specs, **blocks, sizes={"stain": (64, 64), "cells": (96, 128)})
    with torch.no_grad():  # an untrained detector finds nothing
        model.tasks["cells"].fcos.head.classification_head.cls_logits.bias.fill_(1.0)
    return model.eval()


@pytest.fixture(scope="module")
def place(model: MultiTaskModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and one for temporary files."""
    folder = tmp_path_factory.mktemp("app")
    model.save_pretrained(folder / "first")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def page(place: Path, cells: Path) -> Iterator[tuple[Browser, str]]:
    with (
        Browser(place / "profile") as browser,
        serving(place / "tmp", "--model", str(place / "first")) as url,
    ):
        yield browser, url
    assert not any((place / "tmp").iterdir()), "images are not left behind"


def _ask(browser: Browser, url: str, image: Path, tasks: set[str]) -> None:
    browser.driver.get(url)
    browser.wait("#u-show")
    browser.drop(image)
    for label in browser.all("#u-tasks label"):
        if label.text.split()[0] in tasks:
            label.click()
    browser.wait("#u-show").click()
    browser.wait("#u-answers .u-card, #u-answers .u-problem")


def _text(browser: Browser, task: str) -> str:
    text: str = browser.wait(f"#u-answers [data-task={task}]").get_attribute("textContent")
    return text


def test_the_page_shows_what_the_model_predicts(
    page: tuple[Browser, str], model: MultiTaskModel, cells: Path, place: Path
) -> None:
    browser, url = page
    _ask(browser, url, cells, {"stain", "cells", "area", "density"})
    image = np.array(Image.open(cells))
    found = {name: to_numpy(model.predict([image], name)[0]) for name in model.tasks}

    stain = _text(browser, "stain")
    for name, probability in zip(HOSTILE, found["stain"], strict=True):
        assert name in stain, "names are text"
        assert f"{probability:.1%}" in stain
    assert browser.driver.title == "first · umedpt", "and nothing that runs"
    assert f"{found['density'][0]:.4g} 1/mm²" in _text(browser, "density")
    assert f"{(found['area'] == 1).sum()} px" in _text(browser, "area")

    strong = found["cells"].scores >= Query.least_score
    boxes = replace(
        found["cells"], **{key: getattr(found["cells"], key)[strong] for key in ("boxes", "scores", "labels")}
    )
    assert strong.any(), "the test would show nothing"
    assert len(browser.all("#u-answers .u-box")) == len(boxes.boxes)
    rows = [row.get_attribute("textContent") for row in browser.all("#u-answers tr")[1:]]
    names = ("red", "white", "platelet")
    assert rows == [
        f"{names[label]}{score:.2f}{box[0]:.0f}{box[1]:.0f}{box[2] - box[0]:.0f}{box[3] - box[1]:.0f}"
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True)
    ]
    for index, name in enumerate(names):
        assert f"{name} {(boxes.labels == index).sum()}" in _text(browser, "cells")

    assert any((place / "tmp").rglob(cells.name)), "the image lies in the folder that is removed"
    outside = [address for address in browser.requests() if not address.startswith(url)]
    assert outside == []


def test_the_overlay_can_be_hidden(page: tuple[Browser, str], cells: Path) -> None:
    browser, url = page
    _ask(browser, url, cells, {"area"})
    marks = browser.wait("#u-answers .u-marks")
    assert marks.is_displayed()
    browser.wait("#u-answers .u-toggle input").click()
    assert not marks.is_displayed()


def test_a_corrupt_file_is_told_and_the_page_goes_on(page: tuple[Browser, str], cells: Path, tmp_path: Path) -> None:
    browser, url = page
    (tmp_path / "cut.jpg").write_bytes(cells.read_bytes()[:5000])
    _ask(browser, url, tmp_path / "cut.jpg", {"stain"})
    problem = browser.wait("#u-answers .u-problem").text
    assert problem.startswith("cut.jpg: not an image that can be read")
    assert "Traceback" not in browser.driver.page_source
    assert str(tmp_path) not in problem
    _ask(browser, url, cells, {"stain"})
    assert browser.all("#u-answers .u-bar")


def test_answers_for_another_image_are_taken_away(page: tuple[Browser, str], cells: Path) -> None:
    browser, url = page
    _ask(browser, url, cells, {"stain"})
    browser.drop(cells.with_name(sorted(file.name for file in cells.parent.glob("*.jpg"))[1]))
    browser.wait("#u-answers .u-hint")
    assert browser.all("#u-answers .u-card") == []


def test_nothing_is_kept_in_the_browser(page: tuple[Browser, str], cells: Path) -> None:
    browser, url = page
    _ask(browser, url, cells, {"stain"})
    script = "return JSON.stringify([localStorage, sessionStorage])"
    assert cells.stem not in json.dumps(browser.driver.execute_script(script))
    names = browser.driver.execute_async_script("indexedDB.databases().then(arguments[0])")
    assert [base["name"] for base in names if "run" in base["name"] or "history" in base["name"]] == []
