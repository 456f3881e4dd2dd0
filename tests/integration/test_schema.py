"""The JSON schema of configs takes what `umedpt fit` takes, and finds what a user mistypes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from umedpt_lightning.cli import main
from umedpt_lightning.data import readers

ALL = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
CONFIGS = [file for file in ALL if file.name != "wandb.yaml"]  # that one is for another program
Config = dict[str, Any]


@pytest.fixture(scope="module")
def validator(schema: Config) -> Draft7Validator:
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_is_valid(file: Path, validator: Draft7Validator) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []


@pytest.mark.filterwarnings("ignore::jsonargparse._util.JsonargparseWarning")  # of tuples that become lists
@pytest.mark.parametrize(
    ("command", "file"), [("fit", "demo.yaml"), ("fit", "xray_ct_blood.yaml"), ("transfer", "transfer/pneumonia.yaml")]
)
def test_what_a_command_prints_of_its_config_is_valid(
    command: str, file: str, validator: Draft7Validator, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/score"]
    arguments = [command, "--config", str(CONFIGS[0].parent / file), *(extra if command == "fit" else [])]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--print_config"])
    whole = yaml.safe_load(capsys.readouterr().out)
    assert [error.message for error in validator.iter_errors(whole)] == []


def _reader(config: Config) -> Config:
    options: Config = config["data"]["tasks"]["squares"]["train"]["init_args"]
    return options


def _set(*keys: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for key in keys[:-1]:
            config = config.setdefault(key, {})
        config[keys[-1]] = value

    return change


MISTAKES: dict[str, Callable[[Config], None]] = {
    "a section": _set("trainr", value={}),
    "an option of the trainer": _set("trainer", "max_epoch", value=3),
    "an option of a task": _set("data", "tasks", "squares", "batchsize", value=3),
    "an option of a reader": lambda config: _reader(config).update(clases=["a", "b"]),
    "an option of the encoder": _set("model", "encoder", "init_args", "weight", value="timm"),
    "an option of a head": _set(
        "model", "tasks", "sizes", value={"class_path": "Classification", "init_args": {"class_weight": "balanced"}}
    ),
    "an option of a schedule": _set(
        "data", "schedule", value={"class_path": "Proportional", "init_args": {"temprature": 2}}
    ),
    "an option of a callback": _set(
        "trainer", "callbacks", value=[{"class_path": "EarlyStopping", "init_args": {"monitr": "val/score"}}]
    ),
    "a reader": _set("data", "tasks", "squares", "train", "class_path", value="MaskFolder"),
    "an option that must be there": lambda config: _reader(config).pop("masks"),
    "the type of a number": _set("data", "tasks", "squares", "batch_size", value="many"),
    "the type of a list": lambda config: _reader(config).update(classes=3),
    "the type of a reader": _set("data", "tasks", "squares", "train", value=7),
    "a choice": _set("data", "distribute", value="everything"),
    "an option of parameter groups": _set(
        "model", "optimization", value={"groups": {"class_path": "ParameterGroups", "init_args": {"decay": 0.5}}}
    ),
    "an optimizer without a class": _set("model", "optimization", value={"optimizer": {"lr": 0.1}}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str, config: Config, validator: Draft7Validator) -> None:
    assert validator.is_valid(config)
    wrong = copy.deepcopy(config)
    MISTAKES[mistake](wrong)
    assert not validator.is_valid(wrong)


FINE: dict[str, Callable[[Config], None]] = {
    "a head": _set(
        "model", "tasks", "sizes", value={"class_path": "Classification", "init_args": {"class_weights": "balanced"}}
    ),
    "a reader of one's own": _set(
        "data", "tasks", "new", "train", value={"class_path": "my.Reader", "init_args": {"a": 1}}
    ),
    "a reader with its module": _set(
        "data", "tasks", "squares", "train", "class_path", value="umedpt_lightning.data.readers.MaskFolders"
    ),
    "a logger": _set(
        "trainer",
        "logger",
        value={"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "umedpt"}},
    ),
    "a strategy": _set("trainer", "strategy", value={"class_path": "DDPStrategy", "init_args": {"timeout": "1"}}),
    "an optimizer, a schedule and groups": _set(
        "model",
        "optimization",
        value={
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 9}},
            "groups": {"class_path": "ParameterGroups", "init_args": {"layer_decay": 0.8}},
        },
    ),
    "a weighting": _set("model", "weighting", value={"class_path": "FixedWeights"}),
    "a balance of gradients": _set(
        "model",
        "aggregator",
        value={
            "class_path": "SketchBalance",
            "init_args": {"weighting": {"class_path": "torchjd.aggregation.MGDAWeighting"}, "memory": 0.5},
        },
    ),
    "an aggregator of one's own": _set("model", "aggregator", value={"class_path": "my.Aggregator"}),
    "a part of a config": lambda config: [config.pop(key) for key in ("model", "data")] and None,
}


@pytest.mark.parametrize("change", FINE)
def test_what_is_right_is_not_refused(change: str, config: Config, validator: Draft7Validator) -> None:
    FINE[change](config)
    assert [error.message for error in validator.iter_errors(config)] == []


def test_readers_are_offered_by_name_with_their_options_described(validator: Draft7Validator) -> None:
    choices = [choice for choice in validator.schema["definitions"]["Reader"]["anyOf"] if "properties" in choice]
    offered = {choice["properties"]["class_path"]["enum"][0]: choice for choice in choices[:-1]}
    assert offered.keys() == set(readers.__all__) - {"Reader", "Table"}
    for choice in offered.values():
        assert choice["description"]
        assert all(option.get("description") for option in choice["properties"]["init_args"]["properties"].values())


def test_no_default_is_the_address_of_an_object(validator: Draft7Validator) -> None:
    assert " at 0x" not in json.dumps(validator.schema)
