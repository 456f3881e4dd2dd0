"""Models as folders: what is saved comes back the same, and what is wrong in a folder is told and never run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of
from safetensors.torch import load_file, save_file

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import (
    Classification,
    Detection,
    Detections,
    FeatureWidths,
    MultilabelClassification,
    Segmentation,
)
from umedpt_lightning.types import ClassSpec

OPTIONS: dict[str, Any] = {
    "a_class": partial(Classification, class_weights="balanced", label_smoothing=0.1),
    "a_multilabel": partial(MultilabelClassification, positive_weights=[1, 2, 3.5]),
    "a_mask": partial(Segmentation, loss="ce", class_weights=(1.0, 2.0, 3.0)),
    "a_box": partial(Detection, score_threshold=0.2, max_detections=7),
}


def model_of(encoder: Encoder, **options: Any) -> MultiTaskModel:
    """All five label types, weights and running statistics that no constructor would give again."""
    specs = {f"a_{kind}": spec_of(kind, channels=encoder.in_channels) for kind in KINDS}
    specs["a_mask"] = replace(specs["a_mask"], value_range=(-1000.0, 400.0))
    model = MultiTaskModel(encoder, specs, OPTIONS, SMALL_PIXELS, SMALL_DETECTION, **options)
    with torch.no_grad():
        for value in model.state_dict().values():
            value += torch.rand(value.shape) * 0.1 if value.is_floating_point() else 1
    return model.eval()


def outputs(model: MultiTaskModel, images: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for task in model.tasks:
            output = model(images, task)
            found += [output] if isinstance(output, torch.Tensor) else [*output.raw.values(), output.anchors]
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, not to be written to."""
    folder = tmp_path_factory.mktemp("saved")
    model_of(small_encoder(), sizes={"a_class": (48, 40)}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"batch_norm": "keep"}),
        ("test_resnet", {"batch_norm": "freeze", "drop_path_rate": 0.2}),
        ("test_resnet", {"batch_norm": "per_task", "in_channels": 4}),
        ("test_efficientnet", {"batch_norm": "group"}),
        ("test_convnext", {"in_channels": 1}),
        pytest.param("swin_tiny_patch4_window7_224", {}, marks=pytest.mark.slow),
    ],
)
def test_a_folder_gives_the_same_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(Encoder(name, **options), sizes={"a_box": (64, 32)})
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)

    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert again.model_config() == model.model_config()
    assert again.sizes == {"a_box": (64, 32)}
    for task in model.tasks:
        # equality of specs leaves their statistics out
        assert asdict(model.task(task).spec) == asdict(again.task(task).spec)
    assert not again.training
    images = torch.randint(0, 256, (2, options.get("in_channels", 3), 50, 70))
    assert all(map(torch.equal, outputs(model, images), outputs(again, images)))


def test_others_may_read_all_files(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert {file.stat().st_mode for file in saved.iterdir()} == {(tmp_path / "usual").stat().st_mode}


def test_weights_that_only_losses_use_come_back_too(saved: Path) -> None:
    model = MultiTaskModel.from_pretrained(saved)
    spec = spec_of("class")
    assert isinstance(spec, ClassSpec)
    expected = Classification(spec, FeatureWidths(embedding=4), class_weights="balanced").class_weights
    assert torch.equal(model.task("a_class").class_weights, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "edgenext_xx_small"])
def test_the_encoder_loads_into_plain_timm(name: str, tmp_path: Path) -> None:
    encoder = Encoder(name)
    model = MultiTaskModel(encoder, {"a": spec_of("class")}, pixel_decoder=SMALL_PIXELS).eval()
    model.save_pretrained(tmp_path)
    line = next(row for row in (tmp_path / "README.md").read_text().splitlines() if row.startswith("net = timm"))
    names = {"timm": timm}
    exec(line.replace("encoder.safetensors", str(tmp_path / "encoder.safetensors")), names)  # what users paste
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps: Any = names["net"].eval()(images)  # type: ignore[attr-defined]
        expected = encoder(images).maps
    assert all(map(torch.equal, maps, expected))
    whole = timm.create_model(name, num_classes=0)
    lacking = whole.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=False)
    assert not lacking.unexpected_keys


def test_an_encoder_with_four_channels_names_a_line_that_keeps_its_first_layer(tmp_path: Path) -> None:
    encoder = Encoder("test_resnet", in_channels=4)
    MultiTaskModel(encoder, {"a": spec_of("class", channels=4)}, pixel_decoder=SMALL_PIXELS).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    lines = [row for row in text.splitlines() if row.startswith(("net = timm", "net.load_state_dict"))]
    names = {"timm": timm, "load_file": load_file}
    exec("\n".join(lines).replace("encoder.safetensors", str(tmp_path / "encoder.safetensors")), names)
    net: Any = names["net"]
    assert torch.equal(net.conv1[0].weight, encoder.net.state_dict()["conv1.0.weight"])


def test_an_encoder_of_replaced_norms_is_not_offered_to_timm(tmp_path: Path) -> None:
    model = MultiTaskModel(Encoder("test_resnet", batch_norm="group"), {"a": spec_of("class")})
    assert model.encoder.plain_state() is None
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()
    assert "plain timm cannot load" in (tmp_path / "README.md").read_text()


def test_the_exported_encoder_starts_a_new_model(tmp_path: Path) -> None:
    model_of(Encoder("test_resnet")).save_pretrained(tmp_path)
    old = MultiTaskModel.from_pretrained(tmp_path).encoder.state_dict()
    new = Encoder("test_resnet", weights=tmp_path / "encoder.safetensors").state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize("key", ["baseline", "trivial"])  # as files of older releases call it
def test_the_card_has_front_matter_and_what_is_known(tmp_path: Path, key: str) -> None:
    metrics = {"val": {"metrics": {"a_class/auroc": 0.875, "a_mask/dice": None}, key: {"a_class/auroc": 0.5}}}
    card = {"data": {"a_class": "train by MedMNIST (pneumonia.npz)"}, "metrics": metrics}
    model_of(small_encoder()).save_pretrained(tmp_path, model_card_kwargs=card)
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "unknown"
    assert about["library_name"] == "umedpt-lightning"
    assert about["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.875
    for words in (
        "| a_class | auroc | val | 0.875 | 0.500 |",
        "pneumonia.npz",
        "| a_mask | one class a pixel | 3 | -1000 to 400",
    ):
        assert words in text


class Doubled(Classification):
    """A task of a user's own, with an option of its own."""

    def __init__(self, spec: ClassSpec, widths: FeatureWidths, factor: float = 2.0, **options: Any) -> None:
        super().__init__(spec, widths, **options)
        self.factor = factor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) * self.factor


def test_a_class_of_ones_own_must_be_given_by_the_caller(tmp_path: Path) -> None:
    tasks = {"a": partial(Doubled, factor=3.0, label_smoothing=0.2)}
    model = MultiTaskModel(small_encoder(), {"a": spec_of("class")}, tasks)  # type: ignore[arg-type]
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'Doubled'.*Classification.*classes=\[YourClass\]"):
        MultiTaskModel.from_pretrained(tmp_path)
    head = MultiTaskModel.from_pretrained(tmp_path, classes=[Doubled]).task("a")
    assert isinstance(head, Doubled)
    assert (head.factor, head.label_smoothing) == (3.0, 0.2)


def test_an_option_that_json_cannot_hold_is_told_before_anything_is_written(tmp_path: Path) -> None:
    tasks = {"a": partial(Doubled, factor=object())}
    model = MultiTaskModel(small_encoder(), {"a": spec_of("class")}, tasks)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tasks.a.head: factor is a object"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def _change(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def _encoder(**options: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config["model"]["encoder"]["options"].update(options)


def _head(**options: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config["model"]["tasks"]["a_class"]["head"].update(options)


def _renamed(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config["model"]["tasks"].update({name: config["model"]["tasks"].pop("a_class")})


def _spec(**options: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config["model"]["tasks"]["a_class"]["spec"]["options"].update(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "version 2, but this release reads version 1"),
        (lambda c: c.pop("format"), "does not describe a model"),
        (lambda c: c.pop("model"), "model must be a mapping"),
        (lambda c: c["model"].pop("encoder"), r"model.encoder must be a mapping"),
        (lambda c: c["model"].update(trainer={}), "unknown key 'trainer'"),
        (lambda c: c["model"].update(tasks=[]), "model.tasks must be a mapping"),
        (lambda c: c["model"].update(tasks={}), "There is no task"),
        (lambda c: c["model"]["tasks"]["a_box"].update(size=[0, 5]), "a_box.size must be"),
        (lambda c: c["model"]["tasks"]["a_box"].update(size="64"), "a_box.size must be"),
        (_head(**{"class": "os.system"}), "'os.system', but must be one of Classification"),
        (_head(**{"class": ["Classification"]}), "must be one of"),
        (_head(**{"class": "Encoder"}), "'Encoder', but must be one of"),
        (_head(**{"class": "Detection"}), "a_class"),
        (_head(options={"loss": "ce"}), "Classification has no option 'loss'"),
        (_head(options={"spec": None}), "Classification has no option 'spec'"),
        (_head(options={"label_smoothing": "0.1"}), "label_smoothing is '0.1'"),
        (_head(options=[]), "must be a mapping"),
        (_spec(classes="abc"), "classes is 'abc'"),
        (_spec(channels=0), "at least one channel"),
        (_spec(channels=True), "channels is True"),
        (_spec(value_range=[1, 0]), "low < high"),
        (_encoder(weights="/etc/passwd"), "Encoder has no option 'weights'"),
        (_encoder(name="hf-hub:somebody/model"), "timm knows no model 'hf-hub:somebody/model'"),
        (_encoder(name="local-dir:/tmp/model"), "timm knows no model"),
        (_encoder(name="test_convnext.hf-hub:a/b"), "timm knows no model"),
        (_encoder(name="../test_convnext"), "timm knows no model"),
        (_encoder(name=None), "name is None"),
        (_encoder(batch_norm="drop"), "batch_norm is 'drop'"),
        (_encoder(in_channels=10**12), "encoder cannot be built|cannot be loaded"),
        (_renamed("../../a"), "cannot name a task"),
        (_renamed("a/b"), "cannot name a task"),
        (_renamed(""), "cannot name a task"),
        (_renamed("another"), "cannot be loaded into the model"),
        (_spec(classes=["a", "b"]), "cannot be loaded into the model.*size mismatch"),
        (_encoder(name="test_resnet"), "cannot be loaded into the model"),
    ],
)
def test_a_wrong_config_is_told(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    _change(folder / "config.json", change)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        MultiTaskModel.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", '{"a": ' * 100_000, "\x00", '"text"'])
def test_what_is_no_config_is_told(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json (is not JSON|does not describe)"):
        MultiTaskModel.from_pretrained(folder)


def test_broken_weights_are_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    # cut in the tensors, cut in the header, nothing, a header longer than the file, and a pickle
    for content in (whole[:-100], whole[:50], b"", b"\xff" * 64, b"\x80\x04cos\nsystem\n."):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"model.safetensors cannot be loaded"):
            MultiTaskModel.from_pretrained(folder)


def test_weights_that_lack_a_tensor_or_have_one_more_are_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    for changed in (dict(list(state.items())[1:]), state | {"extra": torch.zeros(1)}):
        save_file(changed, file)
        with pytest.raises(ValueError, match=r"(?s)cannot be loaded.*(Missing|Unexpected) key"):
            MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["nobody/no-model", "/no/such/folder", "../no", ""])
def test_what_is_neither_a_folder_nor_to_be_had_is_told(name: str) -> None:
    with pytest.raises((ConnectionError, FileNotFoundError), match=r"no folder|There is no"):
        MultiTaskModel.from_pretrained(name, local_files_only=True)


def test_predictions_are_those_of_the_saved_model(saved: Path) -> None:
    images = [torch.randint(0, 256, (60, 44, 3), dtype=torch.uint8)]
    first, second = (MultiTaskModel.from_pretrained(saved) for _ in range(2))
    for task in first.tasks:
        (found,), (expected,) = first.predict(images, task), second.predict(images, task)
        if isinstance(found, Detections):
            found, expected = found.boxes, expected.boxes
        assert torch.equal(found, expected)


def _run(folder: Path, model: MultiTaskModel, name: str = "best") -> Path:
    """What a run leaves of a model."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    file = folder / "checkpoints" / f"{name}.ckpt"
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state | {"val_losses.a": torch.ones(1)}, "model_config": model.model_config()}, file)
    return file


def test_a_run_and_its_checkpoint_give_the_model_too(tmp_path: Path) -> None:
    model = model_of(small_encoder(), sizes={"a_class": (48, 40)})
    file = _run(tmp_path, model)
    for place in (tmp_path, file, str(file)):
        again = MultiTaskModel.from_pretrained(place)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        assert again.sizes == model.sizes
        assert not again.training


def test_what_gives_no_model_says_what_would(tmp_path: Path) -> None:
    model = model_of(small_encoder())
    file = _run(tmp_path / "run", model, "last")
    with pytest.raises(FileNotFoundError, match=r"has not been validated yet. Give one of .*last\.ckpt"):
        MultiTaskModel.from_pretrained(tmp_path / "run")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "empty").mkdir()
    for place in (
        tmp_path / "weights.pth",
        tmp_path / "empty",
        tmp_path / "run" / "checkpoints" / "none.ckpt",
        "a/b/c",
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=r"Give the folder of a run .*\.ckpt files.*Hub"):
            MultiTaskModel.from_pretrained(place)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="checksum"):
        MultiTaskModel.from_pretrained(file)


def test_tensors_that_share_memory_come_back_shared(tmp_path: Path) -> None:
    model = model_of(small_encoder())
    first, second = (
        model.task("a_class"),
        Classification(spec_of("class"), FeatureWidths(embedding=model.pooling.norm.normalized_shape[0])),
    )  # type: ignore[arg-type]
    second.head = first.head
    model.tasks["a_class_too"] = second
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert torch.equal(again.task("a_class_too").head.weight, first.head.weight)
