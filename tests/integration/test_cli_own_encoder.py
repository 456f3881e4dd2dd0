"""An encoder from a user's own file, by `class_path`, through the commands; no other file names it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel

NAME = "own_encoder.TwoMaps"


def _config(project: Path, folder: Path, encoder: str, **options: Any) -> str:
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["model"]["encoder"] = {"class_path": encoder, "init_args": options}
    file = folder / f"{encoder}.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    main(["fit", "--config", _config(project, folder, NAME, width=6), "--run", str(folder / "run")])
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    folder = run.parent / "exported"
    main(["export", "--run", str(run), "--out", str(folder), "--classes", NAME])
    return folder


def test_it_trains_and_its_run_can_be_validated_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    main(["validate", "--config", str(run / "config.yaml"), "--run", str(run), "--ckpt_path", "best"])
    again = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    assert again.keys() == before.keys()
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["encoder"]["init_args"] == {
        "width": 6,
        "in_channels": 3,
    }


def test_its_folder_predicts_and_embeds(project: Path, exported: Path, tmp_path: Path) -> None:
    images = sorted(str(file) for file in (project / "test" / "images").glob("*.png"))[:3]
    given = ["--model", str(exported), "--classes", NAME, "--inputs", *images]
    main(["predict", *given, "--tasks", "sizes", "squares", "boxes", "--out", str(tmp_path / "predictions")])
    with (tmp_path / "predictions" / "sizes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    main(["embed", *given, "--task", "sizes", "--out", str(tmp_path / "vectors.npy")])
    assert np.load(tmp_path / "vectors.npy").shape == (3, 12)


def test_its_folder_can_be_exported_again_from_a_model_that_was_loaded(exported: Path, tmp_path: Path) -> None:
    from own_encoder import TwoMaps

    model = MultiTaskModel.from_pretrained(exported, classes=[TwoMaps])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((exported / "config.json").read_text())


def test_transfer_starts_from_it(project: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    data = yaml.safe_load((project / "config.yaml").read_text())["data"]["tasks"]["sizes"]
    method = {"class_path": "PretrainedSource", "init_args": {"path": str(run), "classes": [NAME]}}
    protocol = {"name": "sizes", "data": data, "methods": {"ours": method}, "fractions": [1.0], "seeds": 1}
    protocol |= {"modes": ["frozen", "finetune"], "finetuning": {"steps": 2, "evaluations": 1}}
    (tmp_path / "transfer.yaml").write_text(yaml.safe_dump({"root": str(project), "transfer": protocol}))
    main(["transfer", "--config", str(tmp_path / "transfer.yaml"), "--run", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").exists()


def test_what_lacks_something_is_told_in_one_line_without_a_traceback(project: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*Identity cannot be the encoder.*in_channels.*channels.*strides"):
        main(["fit", "--config", _config(project, tmp_path, "torch.nn.Identity"), "--run", str(tmp_path / "run")])


def test_a_vision_transformer_trains_classes_and_is_refused_where_a_task_needs_a_pyramid(
    project: Path, tmp_path: Path
) -> None:
    file = Path(_config(project, tmp_path, "Encoder", name="test_vit"))
    with pytest.raises(
        SystemExit, match=r"'(squares|boxes)' needs '(pixels|detection)'.*encoder test_vit.*Take an encoder"
    ):
        main(["fit", "--config", str(file), "--run", str(tmp_path / "refused")])
    config = yaml.safe_load(file.read_text())
    config["data"]["tasks"] = {name: config["data"]["tasks"][name] for name in ("sizes", "places", "position")}
    file.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(file), "--run", str(tmp_path / "run")])
    assert (tmp_path / "run" / "metrics.json").exists()
