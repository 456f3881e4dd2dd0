"""From a run to a folder, to another machine, to ONNX."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel

AVERAGING = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
#: Everything that training has and predicting must do without.
BLOCKED = "lightning pytorch_lightning wandb albumentations jsonargparse pandas torchmetrics pycocotools rich"
PREDICT = """
import sys
sys.modules |= dict.fromkeys(sys.argv[2].split())  # Python takes a None for a package that is not installed
import json
import numpy as np
from umedpt_lightning.model import MultiTaskModel
model = MultiTaskModel.from_pretrained(sys.argv[1])
image = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) % 256
found = {name: model.predict([image.astype(np.uint8)], name)[0] for name in model.tasks}
print(json.dumps({name: getattr(value, "scores", value).tolist() for name, value in found.items()}))
"""


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, and images of one task resized."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [AVERAGING]
    config["data"]["tasks"]["sizes"]["size"] = [40, 48]
    file = folder.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(file), "--run", str(folder)])
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    folder = run.parent / "exported"
    main(["export", "--run", str(run), "--out", str(folder)])
    return folder


def _checkpoint(run: Path) -> Mapping[str, Any]:
    checkpoint: Mapping[str, Any] = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    return checkpoint


def test_the_folder_holds_the_averaged_weights_of_the_checkpoint(run: Path, exported: Path) -> None:
    checkpoint = _checkpoint(run)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    key = "model.encoder.net.conv_stem.weight"
    assert not torch.equal(averaged[key], current[key]), "the test would show nothing"
    model = MultiTaskModel.from_pretrained(exported)
    for name, value in model.state_dict().items():
        assert torch.equal(value, averaged[f"model.{name}"]), name


def test_the_folder_knows_the_size_and_the_card_data_and_metrics(run: Path, exported: Path) -> None:
    assert MultiTaskModel.from_pretrained(exported).sizes == {"sizes": (40, 48)}
    text = (exported / "README.md").read_text()
    score = json.loads((run / "metrics.json").read_text())["val"]["metrics"]["squares/dice"]
    assert f"| squares | dice | val | {score:.3f} |" in text
    assert "- **sizes**: train by ManifestClasses (manifest.csv)" in text
    assert str(run.parent.parent) not in text, "folders of a machine are nobody's business"


def test_neither_config_nor_data_are_needed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    main(["export", "--ckpt_path", str(tmp_path / "alone.ckpt"), "--out", str(tmp_path / "out")])
    assert MultiTaskModel.from_pretrained(tmp_path / "out").tasks.keys() == {
        "sizes",
        "places",
        "position",
        "squares",
        "boxes",
    }


def test_predicting_needs_nothing_of_training(exported: Path) -> None:
    arguments = [sys.executable, "-c", PREDICT, str(exported), BLOCKED]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    model = MultiTaskModel.from_pretrained(exported)
    image = (np.arange(32 * 48) % 256).astype(np.uint8).reshape(32, 48)
    for name, there in found.items():
        (here,) = model.predict([image], name)
        assert np.allclose(getattr(here, "scores", here), there, atol=1e-5), name


def test_mistakes_are_told_in_a_line(run: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes()[:1000])
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt")
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--run", str(run), "--out", str(exported)], "is not empty"),
        (["--run", str(tmp_path), *out], "there is no checkpoint"),
        (["--ckpt_path", str(tmp_path / "broken.ckpt"), *out], "broken.ckpt is damaged"),
        (["--ckpt_path", str(tmp_path / "old.ckpt"), *out], "does not say how its model is built"),
        (["--run", str(run), *out, "--classes", "json.dumps"], "is no class"),
        (["--run", str(run), *out, "--classes", "nowhere.Task"], "No module named"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["export", *arguments])
        assert not (tmp_path / "out").exists()


class Evil:
    """Would run when a checkpoint is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "model_config": Evil()}, "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        MultiTaskModel.from_pretrained("evil.ckpt")
    assert not Path("touched").exists()


def test_the_folder_becomes_an_artifact(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "out"
    main(["export", "--run", str(run), "--out", str(out), "--wandb_artifact", "some-project/some-model"])
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 60  # the service that writes may be behind where the machine is busy
    while b"config.json" not in (logged := file.read_bytes()) and time.monotonic() < until:
        time.sleep(0.1)
    for text in (b"some-project", b"some-model", b"model.safetensors", b"config.json"):
        assert text in logged, text
    assert {f.name for f in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
