"""Holds the directions in which the parts know each other, by reading their imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "umedpt_lightning"
ROOT = Path(__file__).resolve().parents[2] / "src" / PACKAGE
FILES = sorted(ROOT.rglob("*.py"))
#: What a part may import of the package; a part that is not named may import anything.
MAY_IMPORT = {
    "labels": {"labels"},
    "types": {"labels", "types"},
    "hparams": set(),
    "io": {"io"},
    "inference": {"types", "labels", "io", "blocks", "tasks", "model", "data", "drawing", "inference"},
    "blocks": {"types", "labels", "hparams", "blocks"},
    "tasks": {"types", "labels", "hparams", "blocks", "tasks"},
    "pretrained": {"types", "labels", "hparams", "blocks", "tasks", "pretrained"},
    "model": {"types", "labels", "io", "blocks", "tasks", "pretrained"},
    "training": {"pretrained", "types", "labels", "blocks", "tasks", "model", "training"},
    "data": {"types", "labels", "data"},
    "drawing": {"types", "labels", "drawing"},
    "transfer": {
        "types",
        "labels",
        "blocks",
        "tasks",
        "pretrained",
        "model",
        "data",
        "drawing",
        "inference",
        "training",
        "transfer",
    },
    "app": {"types", "labels", "io", "inference", "tasks", "model", "data", "drawing", "app"},
    "export": {"types", "labels", "blocks", "tasks", "pretrained", "model", "export"},
}
#: Where a library may be imported, as paths below the package.
ONLY_IN = {
    "lightning": ("runs/", "training/", "data/datamodule.py", "callbacks/", "transfer/", "cli/", "cli.py"),
    "pytorch_lightning": (),
    "albumentations": ("data/transforms.py",),
    "wandb": ("callbacks/",),
    "gradio": ("app/",),
    "matplotlib": ("drawing/", "callbacks/", "transfer/", "cli/"),
}

#: Concrete label kinds and their heads.
KINDS = {"ClassSpec", "MultilabelSpec", "RegressionSpec", "MaskSpec", "BoxSpec", "SurvivalSpec", "UnlabelledSpec"}
HEADS = {"Classification", "MultilabelClassification", "Regression", "Segmentation", "Detection", "Survival"}
HEADS |= {"MaskedImages", "DEFAULT_TASKS"}
#: Where these may be named: their own files, the names that users import, what reads a kind of data, and the closed set
#: of classes that a saved model may name.
MAY_NAME = ("labels/", "tasks/", "types/", "__init__.py", "data/readers/", "data/formats/columns.py", "data/demo/")
SAVED = "pretrained/construction.py"
#: Where a library's class has the name of a head.
NAMESAKES = {"inference/output/dicom_seg.py": {"Segmentation"}}

any_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def imports(file: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, in full."""
    inside = [PACKAGE, *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield module
            if module == PACKAGE:  # from umedpt_lightning import blocks
                yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_there_are_files_to_read() -> None:
    assert {"types", "blocks", "tasks", "model", "training", "data"} <= {part_of(file) for file in FILES}
    assert "umedpt_lightning.types" in set(imports(ROOT / "model.py"))


@any_file
def test_a_part_imports_only_parts_below_it(file: Path) -> None:
    part = part_of(file)
    if part not in MAY_IMPORT:
        pytest.skip(f"{part} may import anything")
    parts = {name.split(".")[1] for name in imports(file) if name.startswith(f"{PACKAGE}.")}
    assert parts <= MAY_IMPORT[part] | {"io"}  # files are written from every floor


@any_file
def test_a_library_is_imported_only_where_it_belongs(file: Path) -> None:
    path = file.relative_to(ROOT).as_posix()
    for library in {name.split(".")[0] for name in imports(file)} & ONLY_IN.keys():
        assert path.startswith(ONLY_IN[library] or ("nowhere",)), library


@any_file
def test_nothing_else_asks_which_label_kind_it_has_before_it(file: Path) -> None:
    path = file.relative_to(ROOT).as_posix()
    if path.startswith(MAY_NAME):
        pytest.skip("here kinds are at home")
    tree = ast.parse(file.read_text())
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named & (KINDS | HEADS) == ({"DEFAULT_TASKS"} if path == SAVED else NAMESAKES.get(path, set()))
    assert "singledispatch" not in named


@pytest.mark.parametrize("file", sorted((ROOT / "labels").glob("*.py")), ids=lambda f: f.name)
def test_label_kinds_need_numpy_alone(file: Path) -> None:
    outside = {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names - {PACKAGE}
    assert outside <= {"numpy"}


@any_file
def test_no_user_is_answered_by_an_assertion(file: Path) -> None:
    lines = [node.lineno for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Assert)]
    assert lines == []


@any_file
def test_a_file_is_short_enough_to_be_read_at_once(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 300


@any_file
def test_no_chart_goes_by_pyplot_whose_state_is_global(file: Path) -> None:
    assert "matplotlib.pyplot" not in set(imports(file))
