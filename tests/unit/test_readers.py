"""What every reader keeps, whatever the format."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import reader_samples
from jsonargparse import ArgumentError, ArgumentParser

from umedpt_lightning.cli.options import fill_root
from umedpt_lightning.data import readers
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.types import (
    IGNORE_INDEX,
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    Sample,
    SurvivalSpec,
    UnlabelledSpec,
)


def walk(base: type[Reader]) -> Iterator[type[Reader]]:
    for cls in base.__subclasses__():
        whole = "__init__" in vars(cls) and not inspect.isabstract(cls)  # bases leave it to those below them
        if cls.__module__.startswith(readers.__name__) and whole:
            yield cls
        yield from walk(cls)


CLASSES = sorted(walk(Reader), key=lambda cls: cls.__name__)


#: Those of which a sample is one image; bags have tests of their own.
OF_IMAGES = [cls for cls in CLASSES if cls is not readers.Bags]


@pytest.fixture(params=OF_IMAGES, ids=lambda cls: cls.__name__)
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Reader, Reader]:
    make = reader_samples.make[request.param]
    return make(tmp_path, "train"), make(tmp_path, "val")


def equal(a: Sample, b: Sample) -> bool:
    same = a.name == b.name and np.array_equal(a.image, b.image) and type(a.target) is type(b.target)
    if isinstance(a.target, BoxArrays):
        return same and all(np.array_equal(x, y) for x, y in zip(a.target, b.target, strict=True))
    return same and np.array_equal(a.target, b.target, equal_nan=True)


def test_every_reader_is_exported() -> None:
    assert {cls.__name__ for cls in CLASSES} == set(readers.__all__) - {"Reader", "Table"}


def test_samples_are_what_the_spec_says(parts: tuple[Reader, Reader]) -> None:
    for reader in parts:
        spec = reader.spec
        assert len(reader) > 0
        for i in range(len(reader)):
            sample = reader[i]
            assert sample.image.ndim == 3
            assert sample.image.shape[-1] == spec.channels
            assert sample.image.dtype in (np.uint8, np.uint16, np.float32)
            assert sample.name
            match spec:
                case ClassSpec():
                    assert type(sample.target) is int
                    assert 0 <= sample.target < len(spec.classes)
                case MultilabelSpec() | RegressionSpec():
                    names = spec.labels if isinstance(spec, MultilabelSpec) else spec.quantities
                    assert sample.target.shape == (len(names),)
                    assert sample.target.dtype == np.float32
                case SurvivalSpec():
                    assert (sample.target.shape, sample.target.dtype) == ((2,), np.float32)
                    assert sample.target[0] >= 0
                    assert sample.target[1] in (0, 1)
                case MaskSpec():
                    assert sample.target.shape == sample.image.shape[:2]
                    assert sample.target.dtype == np.int16
                    assert set(np.unique(sample.target)) <= {*range(len(spec.classes)), IGNORE_INDEX}
                case UnlabelledSpec():
                    assert (type(sample.target), sample.target) == (int, i)
                case BoxSpec():
                    boxes, labels = sample.target
                    assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)
                    assert boxes.shape == (len(labels), 4)
                    assert (boxes[:, :2] < boxes[:, 2:]).all()
                    assert (labels < len(spec.classes)).all()
                case _:
                    pytest.fail(f"unknown spec {spec}")


def test_parts_have_equal_specs_and_different_samples(parts: tuple[Reader, Reader]) -> None:
    train, val = parts
    assert train.spec == val.spec
    assert not {sample.name for sample in train} & {sample.name for sample in val}


def test_indices_behave_as_those_of_a_sequence(parts: tuple[Reader, Reader]) -> None:
    reader = parts[0]
    assert equal(reader[-1], reader[len(reader) - 1])
    assert equal(reader[-len(reader)], reader[0])
    for outside in (len(reader), -len(reader) - 1):
        with pytest.raises(IndexError, match=str(outside)):
            reader[outside]
    assert len(list(reader)) == len(reader)


def test_samples_can_be_changed_without_changing_the_reader(parts: tuple[Reader, Reader]) -> None:
    reader = parts[0]
    before, sample = reader[0], reader[0]
    sample.image[:] = 1
    for array in sample.target if isinstance(sample.target, tuple) else (sample.target,):
        if isinstance(array, np.ndarray):
            array[:] = 7
    assert equal(reader[0], before)


def test_names_and_groups_are_told_without_reading(parts: tuple[Reader, Reader]) -> None:
    for reader in parts:
        assert [reader.name(i) for i in range(len(reader))] == [sample.name for sample in reader]
        assert reader.groups is None or reader.groups.shape == (len(reader),)
    assert parts[0].name(-1) == parts[0].name(len(parts[0]) - 1)
    with pytest.raises(IndexError):
        parts[0].name(len(parts[0]))


def test_pickling_keeps_the_samples(parts: tuple[Reader, Reader]) -> None:
    reader = parts[0]
    reader[0]  # what was loaded lazily need not travel
    content = pickle.dumps(reader)
    assert equal(pickle.loads(content)[1], reader[1])


def test_targets_are_those_of_the_samples(parts: tuple[Reader, Reader]) -> None:
    reader = parts[0]
    if isinstance(reader.spec, ClassSpec | MultilabelSpec | RegressionSpec | SurvivalSpec):
        assert reader.targets is not None
        np.testing.assert_array_equal(reader.targets, np.array([sample.target for sample in reader]))
    else:
        assert reader.targets is None


def test_statistics_are_those_of_the_samples(parts: tuple[Reader, Reader]) -> None:
    for reader in parts:
        targets = np.array([s.target for s in reader]) if reader.targets is not None else None
        match reader.spec:
            case ClassSpec(classes=classes, counts=counts):
                assert counts == tuple((targets == i).sum() for i in range(len(classes)))
            case MultilabelSpec(counts=counts, known=known):
                assert counts == tuple((targets == 1).sum(axis=0))
                assert known == tuple((~np.isnan(targets)).sum(axis=0))
            case RegressionSpec(means=means, stds=stds):
                np.testing.assert_allclose(means, np.nanmean(targets, axis=0), rtol=1e-6)
                np.testing.assert_allclose(stds, np.nanstd(targets, axis=0), rtol=1e-6)


COMMON = [cls for cls in CLASSES if "channels" in inspect.signature(cls).parameters]


@pytest.mark.parametrize("cls", COMMON, ids=lambda cls: cls.__name__)
def test_channels_and_value_range_are_options_of_every_reader(
    cls: type[Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cls.__init__
    monkeypatch.setattr(cls, "__init__", lambda self, *a, **k: plain(self, *a, **k, channels=3, value_range=(10, 99)))
    reader = reader_samples.make[cls](tmp_path, "train")
    assert (reader.spec.channels, reader.spec.value_range) == (3, (10.0, 99.0))
    first = reader[0].image
    assert first.shape[-1] == 3
    assert (first == first[..., :1]).all()


def test_only_wrappers_lack_these_options() -> None:
    assert set(CLASSES) - set(COMMON) == {
        readers.Bags,
        readers.Centres,
        readers.FileSplit,
        readers.Packed,
        readers.Split,
        readers.Subset,
        readers.Unlabelled,
    }


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_signatures_are_typed_for_configs(cls: type[Reader]) -> None:
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        assert parameter.annotation is not inspect.Parameter.empty, name
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, name


def test_readers_are_made_from_a_config(tmp_path: Path) -> None:
    file = reader_samples.medmnist(tmp_path / "a.npz")
    table = reader_samples.manifest(tmp_path)
    parser = ArgumentParser()
    parser.add_argument("--data", type=dict[str, Reader])
    path = "umedpt_lightning.data.readers."
    config = {
        "half": {
            "class_path": path + "Subset",
            "init_args": {
                "stop": 0.5,
                "reader": {"class_path": path + "MedMNIST", "init_args": {"file": str(file), "split": "train"}},
            },
        },
        "numbers": {
            "class_path": path + "ManifestNumbers",
            "init_args": {"table": str(table), "split": "val", "quantities": {"z": "mm"}, "value_range": [0, 100]},
        },
        "masks": {
            "class_path": path + "ManifestMasks",
            "init_args": {"table": str(table), "split": "val", "classes": {"other": 0, "nodule": 1}, "ignore": 255},
        },
    }
    parsed = parser.parse_object({"data": config})
    data = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(parsed).data
    assert len(data["half"]) == 3
    assert data["numbers"].spec.value_range == (0.0, 100.0)
    assert data["masks"].spec.classes == ("other", "nodule")


@pytest.mark.parametrize("described", ["${root}/table.csv", {"file": "${root}/table.csv", "group": "patient"}])
def test_a_table_is_a_path_or_its_options_also_in_the_config_of_a_run(described: object, tmp_path: Path) -> None:
    reader_samples.manifest(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=dict[str, Reader])
    options = {"table": described, "split": "train"}
    parsed = parser.parse_object({"data": {"a": {"class_path": "ManifestClasses", "init_args": options}}})
    again = parser.parse_string(parser.dump(parsed, skip_unset=False))
    assert again == parsed
    for config in (parsed, again):
        filled = fill_root(config, str(tmp_path))
        reader = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(filled).data[
            "a"
        ]
        assert len(reader) == reader_samples.PARTS["train"]
        assert (reader.groups is None) == isinstance(described, str)


@pytest.mark.parametrize(
    ("described", "match"),
    [({"fiel": "x.csv"}, "'fiel' is not accepted"), ({"group": "g"}, "required: file"), (3, "Given value: 3")],
)
def test_a_table_that_is_described_wrongly_is_told(described: object, match: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=Reader)
    options = {"table": described, "split": "train"}
    with pytest.raises(ArgumentError, match=match):
        parser.parse_object({"it": {"class_path": "ManifestClasses", "init_args": options}})
