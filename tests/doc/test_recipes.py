"""The recipes for those who carry on are followed to the letter, on a small project."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from umedpt_lightning import MultiTaskModel
from umedpt_lightning.cli import COMMANDS, Command, main
from umedpt_lightning.cli.completion import parser_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(recipe: str, language: str) -> list[str]:
    text = (DOCS / f"add-{recipe}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


class Kitchen:
    """A working folder into which a recipe's files are written."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder, self.project = folder, project

    def prepare(self, recipe: str) -> None:
        """Writes its modules, and the project's config with what the recipe adds."""
        for block in blocks(recipe, "python"):
            if name := re.match(r"# file: (\w+\.py)\n", block):
                (self.folder / name[1]).write_text(block)
        config = yaml.safe_load((self.project / "config.yaml").read_text()) | {"root": str(self.project)}
        for block in blocks(recipe, "yaml"):
            added = yaml.safe_load(block)
            if tasks := added.get("data", {}).get("tasks"):
                config["data"]["tasks"] = {name: task | {"batch_size": 4} for name, task in tasks.items()}
            config["model"] |= added.get("model", {})
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def run(self, recipe: str) -> None:
        """Runs all of its commands."""
        lines = "".join(blocks(recipe, "bash")).splitlines()
        assert lines
        for line in lines:
            main(shlex.split(line)[1:])

    def metrics(self, run: str) -> dict[str, Any]:
        """Of the val parts, and the baselines."""
        found: dict[str, Any] = json.loads((self.folder / "runs" / run / "metrics.json").read_text())["val"]
        return found


@pytest.fixture
def kitchen(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Kitchen(tmp_path, project)


def test_a_label_kind(kitchen: Kitchen, capsys: pytest.CaptureFixture[str]) -> None:
    kitchen.prepare("label-kind")
    kitchen.run("label-kind")
    assert "grade/kappa" in kitchen.metrics("grades")["metrics"]
    assert "kappa" in capsys.readouterr().out
    import grades

    task = grades.Grading(grades.GradeSpec(channels=1, grades=("0", "1", "2", "3")), _widths())
    output = torch.randn(64, 3)
    probabilities = task.predict(output)
    assert (probabilities >= 0).all()
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 64)
    assert float(task.loss(torch.zeros(64, 3), torch.randint(0, 4, (64,)))) == pytest.approx(1)
    sure = torch.tensor([[9.0, 9.0, -9.0]])
    losses = [float(task.loss(sure, torch.tensor([grade]))) for grade in range(4)]
    assert losses[2] < min(losses[1], losses[3]) < losses[0], "a grade further away is a larger mistake"
    classes = ["--classes", "grades.Grading", "grades.GradeSpec", "--num_workers", "0"]
    inputs = ["--model", "runs/grades", "--inputs", str(kitchen.project / "test" / "images")]
    main(["predict", *inputs, "--out", "predictions", *classes])
    with Path("predictions/grade.csv").open() as file:
        assert {"small", "large"} <= set(next(csv.DictReader(file)))
    model = MultiTaskModel.from_pretrained("runs/grades", classes=[grades.Grading, grades.GradeSpec])
    assert isinstance(model.task("grade"), grades.Grading)


def test_a_reader(kitchen: Kitchen) -> None:
    generator = np.random.default_rng(0)
    for part, patients in (("train", 6), ("val", 3)):
        folder = kitchen.folder / "patches" / part
        folder.mkdir(parents=True)
        for number in range(2 * patients):
            name = f"{part}{number // 2}_{('benign', 'malign')[number % 2]}_{number:04}.npy"
            np.save(folder / name, generator.integers(0, 30000 * (1 + number % 2), (32, 32), np.uint16))
    kitchen.prepare("reader")
    file = kitchen.folder / "config.yaml"
    file.write_text(file.read_text().replace("${root}", str(kitchen.folder)))
    kitchen.run("reader")
    assert "patches/auroc" in kitchen.metrics("patches")["metrics"]
    assert [*Path("preview").rglob("*patches*.png")]
    from patches import NumpyPatches

    reader = NumpyPatches("patches/train", ["benign", "malign"])
    assert reader.spec.counts == (6, 6)
    assert len(set(reader.groups)) == 6
    assert len([*reader]) == 12
    with pytest.raises(ValueError, match=r"train0_malign.*one of \['benign'\].*Rename it"):
        NumpyPatches("patches/train", ["benign"])
    with pytest.raises(ValueError, match=r"there is no \.npy file"):
        NumpyPatches("patches", ["benign"])


def test_an_encoder(kitchen: Kitchen) -> None:
    kitchen.prepare("encoder")
    kitchen.run("encoder")
    metrics = kitchen.metrics("resnet")["metrics"]
    assert {"sizes/auroc", "squares/dice", "boxes/map50"} <= metrics.keys(), "embedding, pixels and pyramid are read"
    import resnets

    model = MultiTaskModel.from_pretrained("models/resnet", classes=[resnets.TorchvisionResNet])
    assert isinstance(model.encoder, resnets.TorchvisionResNet)
    pyramid = resnets.TorchvisionResNet("resnet50")(torch.zeros(1, 3, 40, 70))
    sides = [tuple(one.shape[1:]) for one in pyramid.maps]
    assert sides == [(256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]


def test_a_weighting(kitchen: Kitchen) -> None:
    kitchen.prepare("weighting")
    kitchen.run("weighting")
    with Path("runs/weighting/metrics.csv").open() as file:
        names = csv.DictReader(file).fieldnames or []
    assert [name for name in names if "weight" in name and "sizes" in name], "weights that change are logged"
    from catching_up import CatchingUp

    weighting = CatchingUp({"slow": 1.0, "quick": 1.0})
    both = torch.tensor([True, True])
    for number in range(50):
        weighting.update(torch.tensor([1.0, 0.9**number]), both)
    slow, quick = weighting(50).tolist()
    assert slow > 1.1 * quick
    again = CatchingUp({"quick": 1.0, "new": 1.0, "slow": 1.0})
    again.load_state_by_task(weighting.state_by_task())
    assert again(50)[2] / again(50)[0] == pytest.approx(slow / quick)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        CatchingUp({"a": 1.0}, temperature=0)


def test_a_command(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kitchen.prepare("command")
    _, line = blocks("command", "python")
    added = eval(f"{{{line}}}", {"Command": Command})
    ((name, command),) = added.items()
    monkeypatch.setitem(COMMANDS, name, command._replace(module=command.module.rpartition(".")[2]))
    text = (DOCS / "add-command.md").read_text(encoding="utf-8")
    (call,) = re.findall(rf"`umedpt ({name} .*?)`", text)
    config = str(kitchen.folder / "config.yaml")
    main(["fit", "--config", config, "--run", "runs/first", "--trainer.max_epochs", "1"])
    capsys.readouterr()
    main(shlex.split(call))
    shown = capsys.readouterr().out
    assert "encoder" in shown
    assert "pixel_decoder" in shown
    with pytest.raises(SystemExit, match=r"umedpt: error: .*nowhere"):
        main([name, "--model", "nowhere"])
    assert "--model" in parser_of(name).format_help()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert command.help in capsys.readouterr().out


def _widths() -> Any:
    from umedpt_lightning import FeatureWidths

    return FeatureWidths(embedding=8, pixels=8, detection=8)
