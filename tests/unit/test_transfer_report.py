"""What a sweep says: rows, words, curves and tables."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from builders import WIDTHS, MemoryReader, spec_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from umedpt_lightning.cli import transfer as transfer_command
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.drawing.figures import as_picture, as_svg
from umedpt_lightning.labels import IGNORE_INDEX
from umedpt_lightning.tasks import Segmentation
from umedpt_lightning.transfer.cells import Cell, CellFolder, Mode, Result
from umedpt_lightning.transfer.error_analysis import _matrix, draw_reliability
from umedpt_lightning.transfer.evaluation import seed_interval
from umedpt_lightning.transfer.report import difference_table, draw_curves, write_page
from umedpt_lightning.transfer.summary import Difference, Row, conclusions, differences, summarise, write_tables

FRACTIONS = (0.05, 0.5, 1.0)


def results(curves: dict[tuple[str, Mode], tuple[float, ...]], seeds: int = 3) -> dict[Cell, Result]:
    """Cells whose metric lies around the given means."""
    found = {}
    for (method, mode), means in curves.items():
        for fraction, mean in zip(FRACTIONS[-len(means) :], means, strict=True):
            for seed in range(seeds):
                test = {"auroc": mean + 0.01 * (seed - (seeds - 1) / 2), "f1": 0.5}
                cell = Cell(method, mode, fraction, seed)
                found[cell] = Result(round(100 * fraction), {}, test, test, {"auroc": (mean - 0.1, mean + 0.1)})
    return found


@pytest.fixture
def rows() -> list[Row]:
    return summarise(results({("A", "frozen"): (0.8, 0.85, 0.9), ("B", "frozen"): (0.6, 0.7, 0.8)}), "auroc")


def points(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """What the curves go through, by their names in the legend."""
    (axes,), (legend,) = figure.axes, figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    return {
        name: [(x, y) for x, y in np.asarray(line.get_xydata()).tolist() if not math.isnan(y)]
        for name, line in zip(names, axes.lines, strict=False)
    }


def test_rows_are_means_over_the_seeds(rows: list[Row]) -> None:
    assert [(row.method, row.fraction) for row in rows] == [(m, f) for m in "AB" for f in FRACTIONS]
    assert rows[0].metrics["auroc"].mean == pytest.approx(0.8)
    assert rows[0].metrics["auroc"].count == 3
    assert rows[0].labels == 5
    assert rows[0].patients == pytest.approx((0.7, 0.9))


def test_the_answer_names_the_first_fraction_that_reaches(rows: list[Row]) -> None:
    (sentence,) = conclusions(rows, "auroc")
    assert sentence.startswith("A, frozen: 5 % of the labels (5) reach auroc 0.800")
    assert "at least what B, frozen reaches with 100 % (0.800)" in sentence
    even = summarise(results({("A", "knn"): (0.1, 0.2, 0.3), ("B", "knn"): (0.1, 0.2, 0.3)}), "auroc")
    assert conclusions(even, "auroc") == ["No method reaches with fewer labels what another one reaches with all."]


def test_a_metric_that_is_undefined_everywhere_is_told() -> None:
    undefined = (math.nan,) * 3
    found = summarise(results({("A", "knn"): undefined, ("B", "knn"): undefined}), "auroc")
    (sentence,) = conclusions(found, "auroc")
    assert sentence.startswith("auroc is undefined on the test part, so that nothing can be compared")


def test_an_undefined_mean_reaches_nothing() -> None:
    found = summarise(results({("A", "knn"): (math.nan, 0.2, 0.3), ("B", "knn"): (0.1, 0.2, math.nan)}), "auroc")
    assert conclusions(found, "auroc")[0].startswith("No method")
    assert points(draw_curves(found, "auroc", 0.5))["B, knn"] == [pytest.approx((0.05, 0.1)), pytest.approx((0.5, 0.2))]


def test_a_curve_goes_through_its_means(rows: list[Row]) -> None:
    figure = draw_curves(rows, "auroc", 0.5)
    assert points(figure) == {
        "A, frozen": [pytest.approx(point) for point in ((0.05, 0.8), (0.5, 0.85), (1, 0.9))],
        "B, frozen": [pytest.approx(point) for point in ((0.05, 0.6), (0.5, 0.7), (1, 0.8))],
    }
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5 %", "50 %", "100 %"]
    band = axes.collections[0].get_paths()[0].vertices
    interval = rows[0].metrics["auroc"]
    at_first = band[np.isclose(band[:, 0], 0.05), 1]
    assert (at_first.min(), at_first.max()) == pytest.approx((interval.low, interval.high))


def test_the_axis_fits_curves_that_are_near_to_each_other_and_far_from_the_baseline() -> None:
    near = {("A", "frozen"): (0.96, 0.97, 0.985), ("B", "frozen"): (0.961, 0.972, 0.99)}
    (axes,) = draw_curves(summarise(results(near), "auroc"), "auroc", 0.5).axes
    low, high = axes.get_ylim()
    assert 0.93 < low < 0.96
    assert 0.99 < high < 1.02
    assert axes.get_title(loc="right") == "baseline 0.5, below"


@pytest.mark.parametrize(("baseline", "shown"), [(0.5, True), (0.55, True), (0.91, True), (0.2, False), (1.5, False)])
def test_the_baseline_is_a_line_where_the_axis_reaches_it_and_words_where_not(
    rows: list[Row], baseline: float, shown: bool
) -> None:
    (axes,) = draw_curves(rows, "auroc", baseline).axes
    lines = [line for line in axes.lines if [*line.get_ydata()] == [baseline] * 2]
    low, high = axes.get_ylim()
    assert (len(lines), low < baseline < high) == (shown, shown)
    assert f"{baseline:g}, {'dashed' if shown else 'below' if baseline < 0.5 else 'above'}" in axes.get_title(
        loc="right"
    )


@pytest.mark.parametrize("means", [(0.5, 0.5, 0.5), (math.nan,) * 3, (0.0, 1.0, -40.0), (0.9,)])
def test_any_curve_can_be_drawn(means: tuple[float, ...]) -> None:
    found = summarise(results({("A <b> $x$", "knn"): means}, seeds=1), "auroc")
    figure = draw_curves(found, "auroc", math.nan)
    text = as_svg(figure, "a <b>")
    assert "nan" not in text.lower()
    element = ElementTree.fromstring(text)
    assert element.attrib["aria-label"] == "a <b>"
    texts = ["".join(part.itertext()).strip() for part in element.iter("{http://www.w3.org/2000/svg}text")]
    assert {"100 %", "A <b> $x$, knn"} <= set(texts)
    assert np.isfinite([*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()]).all()
    assert as_picture(figure).width == 1200
    assert "A <b>" not in write_page("task", found, "auroc", {})


def test_many_methods_differ_and_many_fractions_do_not_run_into_each_other() -> None:
    names = [f"{'a rather long name of a method ' * (k % 2)}{k}" for k in range(20)]
    found = summarise(results({(name, "frozen"): (0.5, 0.6, 0.7 + k / 100) for k, name in enumerate(names)}), "auroc")
    crowded = [replace(row, fraction=fraction) for row in found for fraction in (row.fraction, row.fraction * 0.98)]
    figure = draw_curves(crowded, "auroc", 0.5)
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines[:20]}
    assert len(looks) == 20
    picture = as_picture(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    axes = figure.axes[0].get_tightbbox(renderer)
    assert axes is not None
    assert 0 <= legend.y0 < legend.y1 <= axes.y0
    assert legend.x1 <= picture.width
    labels = [label.get_window_extent(renderer) for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert all(one.x1 < other.x0 for one, other in pairwise(labels))


def test_the_same_figure_is_the_same_file(rows: list[Row]) -> None:
    files = [as_svg(draw_curves(rows, "auroc", 0.5), "x") for _ in range(2)]
    assert files[0] == files[1]
    ids = [f"{clip}" for clip in re.findall(r'id="([^"]+)"', files[0])]
    assert len(ids) == len(set(ids))


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
    for cell, result in found.items():
        result.external = {"far": {"auroc": result.test["auroc"] - 0.2 + 1e-9 * cell.seed}}
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
    cells = results(lucky)
    for cell, result in cells.items():
        result.test["auroc"] += 1e-12 * cell.seed * (cell.method == "B")
    found = differences(cells, "auroc")
    assert [(d.first, d.second, d.mode, d.fraction) for d in found] == [("B", "A", "frozen", f) for f in FRACTIONS]
    assert [d.gap.mean for d in found] == pytest.approx([-0.1, -0.05, 0.0])
    assert found[0].gap.high - found[0].gap.low < 1e-9, "what the labels do to both falls out"
    assert "B &minus; A, frozen" in difference_table(found, "auroc")
    assert difference_table([], "auroc") == ""


@pytest.mark.parametrize(("values", "bold"), [((0.1, 0.2, 0.15), True), ((-0.1, 0.2, 0.15), False)])
def test_what_does_not_hold_zero_is_bold(values: tuple[float, ...], bold: bool) -> None:
    gap = Difference("A", "B", "knn", 0.5, seed_interval(values))
    assert ("<b>" in difference_table([gap], "auroc")) == bold


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_reliability_shows_how_often_answers_are_right(share: float) -> None:
    correct = np.arange(100) < 100 * share
    figure = draw_reliability({"A": (np.full(100, 0.75), correct)})
    diagonal, curve = figure.axes[0].lines
    assert np.asarray(diagonal.get_xydata()).tolist() == [[0, 0], [1, 1]]
    assert np.asarray(curve.get_xydata()) == pytest.approx(np.array([[0.75, share]]))


def test_confusion_counts_truth_by_answer() -> None:
    predictions = np.array([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1], [0.3, 0.7]])
    counts = spec_of("class", count=2).confusion(predictions, np.array([0, 0, 1, IGNORE_INDEX]))
    assert counts.tolist() == [[1, 1], [1, 0]]


def test_confusion_is_coloured_by_the_share_of_a_class_that_was_answered_so() -> None:
    table = _matrix(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert re.findall(r'title="([^"]+)"', table) == ["75.0%", "25.0%", "0.0%", "50.0%", "50.0%", *["0.0%"] * 4]


def test_pictures_are_of_the_cell_that_is_best_on_val_with_all_labels(tmp_path: Path) -> None:
    by_val, by_test, few = Cell("A", "frozen", 1.0, 0), Cell("B", "frozen", 1.0, 0), Cell("C", "frozen", 0.5, 0)
    undefined = Cell("D", "frozen", 1.0, 0)
    scores = {by_val: (0.8, 0.6), by_test: (0.7, 0.9), few: (0.95, 0.95), undefined: (math.nan, 0.99)}
    found = {cell: Result(4, {}, {"dice": val}, {"dice": test}) for cell, (val, test) in scores.items()}
    cells, reader = CellFolder(tmp_path), MemoryReader("mask", size=4)
    task = Segmentation(spec_of("mask"), WIDTHS)
    answers = task.answers()
    output = torch.randn(4, 3, *reader.images.shape[1:3])
    answers.add(output, torch.from_numpy(np.stack(reader.values)))
    drawn: list[str] = []
    for cell in found:
        cells.write(cell, "key", found[cell], answers.arrays() | {"score": np.full(4, scores[cell][1])})
    original = transfer_command.draw
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transfer_command, "draw", lambda shown, title: drawn.append(title) or original(shown, title))
        sheets = transfer_command.draw_samples(found, cells, TaskData(test=reader), task)
    assert sheets.keys() == {"best", "worst"}
    assert drawn == [f"{which} test samples of {by_val}" for which in ("best", "worst")]
