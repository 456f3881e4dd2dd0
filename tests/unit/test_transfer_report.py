"""What a sweep says: rows, words, curves and tables."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from builders import spec_of
from PIL import Image

from umedpt_lightning.labels import IGNORE_INDEX
from umedpt_lightning.transfer.calibration import draw_reliability
from umedpt_lightning.transfer.cells import Cell, Mode, Result
from umedpt_lightning.transfer.curve import draw_curves
from umedpt_lightning.transfer.differences import Difference, difference_table, differences
from umedpt_lightning.transfer.report import write_page
from umedpt_lightning.transfer.shapes import Dot, Segment
from umedpt_lightning.transfer.statistics import over_seeds
from umedpt_lightning.transfer.summary import Row, answers, summarise, write_tables

FRACTIONS = (0.05, 0.5, 1.0)


def results(curves: dict[tuple[str, Mode], tuple[float, ...]], seeds: int = 3) -> dict[Cell, Result]:
    """Cells whose metric lies around the given means."""
    found = {}
    for (method, mode), means in curves.items():
        for fraction, mean in zip(FRACTIONS, means, strict=True):
            for seed in range(seeds):
                test = {"auroc": mean + 0.01 * (seed - (seeds - 1) / 2), "f1": 0.5}
                cell = Cell(method, mode, fraction, seed)
                found[cell] = Result(round(100 * fraction), {}, test, test, {"auroc": (mean - 0.1, mean + 0.1)})
    return found


@pytest.fixture
def rows() -> list[Row]:
    return summarise(results({("A", "frozen"): (0.8, 0.85, 0.9), ("B", "frozen"): (0.6, 0.7, 0.8)}), "auroc")


def test_rows_are_means_over_the_seeds(rows: list[Row]) -> None:
    assert [(row.method, row.fraction) for row in rows] == [(m, f) for m in "AB" for f in FRACTIONS]
    assert rows[0].metrics["auroc"].mean == pytest.approx(0.8)
    assert rows[0].metrics["auroc"].count == 3
    assert rows[0].labels == 5
    assert rows[0].patients == pytest.approx((0.7, 0.9))


def test_the_answer_names_the_first_fraction_that_reaches(rows: list[Row]) -> None:
    (sentence,) = answers(rows, "auroc")
    assert sentence.startswith("A, frozen: 5 % of the labels (5) reach auroc 0.800")
    assert "at least what B, frozen reaches with 100 % (0.800)" in sentence
    even = summarise(results({("A", "knn"): (0.1, 0.2, 0.3), ("B", "knn"): (0.1, 0.2, 0.3)}), "auroc")
    assert answers(even, "auroc") == ["No method reaches with fewer labels what another one reaches with all."]


def test_an_undefined_mean_reaches_nothing() -> None:
    found = summarise(results({("A", "knn"): (math.nan, 0.2, 0.3), ("B", "knn"): (0.1, 0.2, math.nan)}), "auroc")
    assert answers(found, "auroc")[0].startswith("No method")
    ElementTree.fromstring(draw_curves(found, "auroc", 0.5).svg())


def test_a_curve_goes_through_its_means_and_higher_is_higher(rows: list[Row]) -> None:
    figure = ElementTree.fromstring(draw_curves(rows, "auroc", 0.5).svg())
    space = "{http://www.w3.org/2000/svg}"
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in figure.findall(f"{space}polyline")
    ]
    assert len(lines) == 2
    for line in lines:
        assert [x for x, _ in line] == sorted(x for x, _ in line)
        assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)  # down is up in pictures
    assert lines[0][0][1] == pytest.approx(lines[1][2][1])  # A at 5 % is as high as B at 100 %
    texts = [text.text for text in figure.iter(f"{space}text")]
    assert {"A, frozen", "B, frozen", "5 %", "50 %", "100 %", "without an image"} <= set(texts)


@pytest.mark.parametrize("means", [(0.5, 0.5, 0.5), (math.nan,) * 3, (0.0, 1.0, -40.0)])
def test_any_curve_can_be_drawn(means: tuple[float, ...]) -> None:
    found = summarise(results({("A <b>", "knn"): means}, seeds=1), "auroc")
    figure = draw_curves(found, "auroc", math.nan)
    assert "nan" not in figure.svg()
    ElementTree.fromstring(figure.svg())
    assert Image.open(BytesIO(figure.png())).width == 2 * figure.size[0]
    assert "A <b>" not in write_page("task", found, "auroc", {})


def test_a_picture_shows_what_the_svg_does(rows: list[Row]) -> None:
    figure = draw_curves(rows, "auroc", 0.5)
    pixels = np.asarray(Image.open(BytesIO(figure.png())))
    for shape in figure.shapes:
        if isinstance(shape, Dot):
            x, y = (round(2 * place) for place in shape.centre)
            assert "#{:02x}{:02x}{:02x}".format(*pixels[y, x]) == shape.colour
    assert sum(isinstance(shape, Dot) for shape in figure.shapes) == 6


def test_tables_hold_the_same_figures(rows: list[Row], tmp_path: Path) -> None:
    write_tables(rows, "auroc", {"auroc": 0.5}, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    header, first, *_ = (tmp_path / "results.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(cells["auroc"]) == pytest.approx(content["rows"][0]["metrics"]["auroc"]["mean"])
    assert float(cells["auroc_low"]) == pytest.approx(content["rows"][0]["metrics"]["auroc"]["low"], abs=1e-5)
    assert content["baseline"] == {"auroc": 0.5}


def test_other_centres_stand_beside_the_test_part_with_their_gap(tmp_path: Path) -> None:
    found = results({("A", "frozen"): (0.8, 0.85, 0.9)})
    for result in found.values():
        result.external = {"far": {"auroc": result.test["auroc"] - 0.2}}
    rows = summarise(found, "auroc")
    there, gap = rows[-1].external["far"]
    assert (there.mean, gap.mean, gap.low) == pytest.approx((0.7, -0.2, -0.2))
    assert "Other centres" in write_page("task", rows, "auroc", {})
    write_tables(rows, "auroc", {}, tmp_path)
    header, first, *_ = (tmp_path / "results.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=False))
    assert '"auroc of far, gap"' in header
    assert first.endswith("0.6,-0.2")
    assert cells["method"] == "A"


def test_methods_are_compared_with_the_same_labels() -> None:
    lucky = {("A", "frozen"): (0.8, 0.85, 0.9), ("B", "frozen"): (0.7, 0.8, 0.9), ("C", "knn"): (0.5, 0.5, 0.5)}
    found = differences(results(lucky), "auroc")
    assert [(d.first, d.second, d.mode, d.fraction) for d in found] == [("B", "A", "frozen", f) for f in FRACTIONS]
    assert [d.gap.mean for d in found] == pytest.approx([-0.1, -0.05, 0.0])
    assert found[0].gap.high - found[0].gap.low < 1e-9, "what the labels do to both falls out"
    assert "B &minus; A, frozen" in difference_table(found, "auroc")
    assert difference_table([], "auroc") == ""


@pytest.mark.parametrize(("values", "bold"), [((0.1, 0.2, 0.15), True), ((-0.1, 0.2, 0.15), False)])
def test_what_does_not_hold_zero_is_bold(values: tuple[float, ...], bold: bool) -> None:
    gap = Difference("A", "B", "knn", 0.5, over_seeds(values))
    assert ("<b>" in difference_table([gap], "auroc")) == bold


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_reliability_shows_how_often_answers_are_right(share: float) -> None:
    correct = np.arange(100) < 100 * share
    figure = draw_reliability({"A": (np.full(100, 0.75), correct)})
    (dot,) = [shape for shape in figure.shapes if isinstance(shape, Dot)]
    (diagonal,) = [shape for shape in figure.shapes if isinstance(shape, Segment) and shape.dashed]
    (left, bottom), (right, top) = diagonal.start, diagonal.end
    assert dot.centre == pytest.approx((left + 0.75 * (right - left), bottom - share * (bottom - top)))


def test_confusion_counts_truth_by_answer() -> None:
    predictions = np.array([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1], [0.3, 0.7]])
    counts = spec_of("class", count=2).confusion(predictions, np.array([0, 0, 1, IGNORE_INDEX]))
    assert counts.tolist() == [[1, 1], [1, 0]]
