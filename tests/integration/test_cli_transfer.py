"""`umedpt transfer` as users call it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import wandb
import yaml
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.transfer import evaluation
from umedpt_lightning.transfer.protocol import Protocol
from umedpt_lightning.transfer.sweep import Sweep

FOLDER = Path(__file__).parents[2] / "configs"
ALL = sorted(FOLDER.rglob("transfer/*.yaml"))
CONFIGS = [file for file in ALL if "transfer" in yaml.safe_load(file.read_text())]
ROOTS = {"~/.cache/umedpt/demo": "demo_data", "data": "shared_data"}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 5)


def _config(project: Path, task: str, **options: Any) -> dict[str, Any]:
    """A task of the project with two methods."""
    data = yaml.safe_load((project / "config.yaml").read_text())["data"]["tasks"][task]
    methods = {
        "small": {"class_path": "TimmSource", "init_args": {"name": "test_resnet"}},
        "other": {"class_path": "TimmSource", "init_args": {"name": "test_efficientnet_gn"}},
    }
    protocol = {"name": task, "data": data, "methods": methods, "fractions": [0.5, 1.0], "seeds": 2} | options
    return {"root": str(project), "transfer": protocol}


def _run(folder: Path, content: dict[str, Any], *arguments: str) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    main(["transfer", "--config", str(folder / "config.yaml"), "--run", str(folder / "run"), *arguments])
    return folder / "run"


def test_a_run_leaves_page_figure_and_tables(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _config(project, "sizes", finetuning={"steps": 2, "evaluations": 1, "learning_rates": [0.001]})
    run = _run(tmp_path, content, "--transfer.modes", "[frozen,knn,finetune]")
    shown = capsys.readouterr().out
    assert "small, finetune" in shown
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert len(rows) == 2 * 3 * 2
    assert {row["seeds"] for row in rows} == {"2"}
    written = json.loads((run / "results.json").read_text())
    assert written["main_metric"] == "auroc"
    assert written["baseline"]["auroc"] == 0.5
    page = (run / "report.html").read_text()
    for sentence in written["answers"]:
        assert sentence in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == [], "the page needs no other file"
    assert page.count('src="data:image/png;base64,') == 2, "the best and the worst"
    assert "Confusion at 100 % of the labels" in page
    figure = ElementTree.parse(run / "curve.svg").getroot()
    texts = {"".join(text.itertext()) for text in figure.iter("{http://www.w3.org/2000/svg}text")}
    assert {f"{row['method']}, {row['mode']}" for row in rows} <= texts
    assert len(list((run / "cells").rglob("*.json"))) == 2 * 3 * 2 * 2

    monkeypatch.setattr("umedpt_lightning.transfer.sweep.Sweep._measure", lambda *_: pytest.fail("run again"))
    _run(tmp_path, content, "--transfer.modes", "[frozen,knn,finetune]")
    assert (run / "report.html").read_text() == page


def _of_two_centres(project: Path) -> dict[str, Any]:
    """A table whose groups are patients of two centres; every part has both."""
    with (project / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (project / "centres.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], "patient"])
        table.writeheader()
        table.writerows(row | {"patient": f"{'AB'[i % 3 // 2]}-{row['split']}{i}"} for i, row in enumerate(rows))
    content = _config(project, "sizes", modes=["knn"], fractions=[1.0])
    del content["transfer"]["methods"]["other"]
    for reader in (content["transfer"]["data"][part] for part in ("train", "val", "test")):
        reader["init_args"]["table"] = {"file": "${root}/centres.csv", "group": "patient"}
    return content


def test_every_centre_is_left_out_in_turn(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _of_two_centres(project)
    seen: list[dict[str, set[str]]] = []
    init = Sweep.__init__

    def noted(self: Sweep, protocol: Protocol, *rest: Any) -> None:
        seen.append({part: {group[0] for group in reader.groups} for part, reader in protocol.readers.items()})
        init(self, protocol, *rest)

    monkeypatch.setattr(Sweep, "__init__", noted)
    run = _run(tmp_path, content, "--centres", "^([A-Z])-")
    assert seen == [
        {"train": {"B"}, "val": {"B"}, "test": {"B"}, "A": {"A"}},
        {"train": {"A"}, "val": {"A"}, "test": {"A"}, "B": {"B"}},
    ]
    rows = list(csv.DictReader((run / "centres.csv").open()))
    assert [row["centre"] for row in rows] == ["A", "B"]
    for row in rows:
        assert float(row["gap"]) == pytest.approx(float(row["auroc at centre"]) - float(row["auroc"]), abs=1e-5)
        assert "Other centres" in (run / row["centre"] / "report.html").read_text()
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("^([AB])-train", "is not found in 6 names"), ("(-)", "test part has samples of - only")],
)
def test_a_pattern_that_finds_no_two_centres_is_told(project: Path, tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        _run(tmp_path, _of_two_centres(project), "--centres", pattern)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"a": {"class_path": "TimmSource", "init_args": {"name": "no_net"}}}}, "methods.a: .*no_net"),
        (
            {"methods": {"a": {"class_path": "CheckpointSource", "init_args": {"file": "nowhere.ckpt"}}}},
            r"methods\.a: There is no folder or file nowhere\.ckpt\. Give the folder of a run",
        ),
        ({"fractions": [3]}, "fractions: 3"),
    ],
)
def test_mistakes_are_told_in_a_line(project: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit, match=f"umedpt: error: .*{message}"):
        _run(tmp_path, _config(project, "sizes") | {"transfer": _config(project, "sizes")["transfer"] | change})


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_config_runs_in_small(config: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content = yaml.safe_load(config.read_text())
    protocol = content["transfer"]
    protocol["data"]["size"] = 32
    small = {"name": "test_vit" if "lora" in str(protocol.get("modes")) else "test_resnet"}  # adapters need attention
    for method in protocol["methods"].values():
        method["init_args"] = small | {"in_channels": method["init_args"].get("in_channels", 3)}
        method["class_path"] = "TimmSource"  # there is no checkpoint
    protocol["finetuning"] = {"steps": 2, "evaluations": 1, "learning_rates": [0.001]}
    run = _run(tmp_path, content, "--root", str(request.getfixturevalue(ROOTS[content["root"]])), "--transfer.seeds=1")
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_the_config_on_the_demo_runs_as_it_is(tmp_path: Path, demo_data: Path) -> None:
    content = yaml.safe_load((FOLDER / "transfer" / "slice_plane.yaml").read_text())
    run = _run(tmp_path, content, "--root", str(demo_data))
    rows = list(csv.DictReader((run / "results.csv").open()))
    best = [float(row["auroc"]) for row in rows if row["fraction"] == "1.0"]
    assert max(best) > 0.9, "the planes of slices are easy to tell apart"


@pytest.mark.parametrize(("task", "metric"), [("squares", "dice"), ("boxes", "map50")])
def test_masks_and_boxes_are_drawn_and_have_intervals_over_patients(
    task: str, metric: str, project: Path, tmp_path: Path
) -> None:
    source = {"class_path": "TimmSource", "init_args": {"name": "test_resnet"}}
    training = {"steps": 2, "evaluations": 1, "learning_rates": [0.001]}
    options = {"methods": {"small": source}, "modes": ["frozen"], "fractions": [1.0], "seeds": 1}
    run = _run(tmp_path, _config(project, task, finetuning=training, **options))
    page = (run / "report.html").read_text()
    for title in ("best", "worst"):
        assert Image.open(run / f"{title}.png").width > 300
        assert f"{title.capitalize()} test samples" in page
    assert page.count('src="data:image/png;base64,') == 2
    assert Image.open(run / "curve.png").width > 300
    (cell,) = (run / "cells").rglob("*.json")
    low, high = json.loads(cell.read_text())["intervals"][metric]
    assert 0 <= low <= high <= 1


def test_results_go_to_weights_and_biases_where_asked_for(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: dict[str, Any] = {}
    monkeypatch.setattr(wandb.Run, "log", lambda self, row: logged.update(row))
    _run(tmp_path, _config(project, "sizes", fractions=[1.0], seeds=1), "--wandb", "labels")
    assert set(logged) == {"results", "report", "pictures/curve", "pictures/best", "pictures/worst"}
    assert len(logged["results"].data) == 2 * 2
    assert (tmp_path / "run" / "wandb").is_dir()


def test_masks_are_measured_with_the_decoder_that_is_asked_for(project: Path, tmp_path: Path) -> None:
    decoder = {"class_path": "umedpt_lightning.blocks.PixelDecoder", "init_args": {"channels": 4}}
    source = {"class_path": "TimmSource", "init_args": {"name": "test_resnet", "pixel_decoder": decoder}}
    training = {"steps": 2, "evaluations": 1, "learning_rates": [0.001]}
    options = {"methods": {"small": source}, "modes": ["frozen"], "fractions": [1.0], "seeds": 1}
    run = _run(tmp_path, _config(project, "squares", finetuning=training, **options))
    (cell,) = (run / "cells").rglob("*.json")
    assert 0 <= json.loads(cell.read_text())["test"]["dice"] <= 1
    assert "Confusion" not in (run / "report.html").read_text()


def test_shots_stand_beside_fractions_in_page_tables_and_figures(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path, _config(project, "sizes", fractions=[1.0], seeds=1), "--shots", "2,4")
    shown = capsys.readouterr().out
    for share in ("100 %", "2 shots", "4 shots"):
        assert share in shown
    rows = list(csv.DictReader((run / "results.csv").open()))
    found = [(row["fraction"], row["shots"], row["labels"]) for row in rows[:3]]
    assert found == [("1.0", "", "12"), ("", "2", "4"), ("", "4", "8")]
    page = (run / "report.html").read_text()
    assert "<td>2 shots</td>" in page
    assert "<th>4 shots</th>" in page, "differences"
    assert "Confusion at 100 % of the labels" in page
    assert {"curve.svg", "shots.svg", "curve.png", "shots.png"} <= {file.name for file in run.iterdir()}
    with pytest.raises(SystemExit, match="--shots 2,x: it should be whole numbers"):
        _run(tmp_path, _config(project, "sizes"), "--shots", "2,x")
