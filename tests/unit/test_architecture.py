"""Holds the directions in which the parts know each other, by reading their imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

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


@cache
def nodes(file: Path) -> list[ast.AST]:
    """All of the file's syntax tree."""
    return list(ast.walk(ast.parse(file.read_text())))


@cache
def imports(file: Path) -> set[str]:
    """Every module that the file imports anywhere, in full."""
    inside = [PACKAGE, *file.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found.add(module)
            if module == PACKAGE:  # from umedpt_lightning import blocks
                found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def wrong(check: Callable[[Path], object]) -> dict[str, object]:
    """What a check finds wrong with files, by their paths."""
    return {path_of(file): found for file in FILES if (found := check(file))}


def path_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_there_are_files_to_read() -> None:
    assert {"types", "blocks", "tasks", "model", "training", "data"} <= {part_of(file) for file in FILES}
    assert "umedpt_lightning.types" in imports(ROOT / "model.py")


def test_a_part_imports_only_parts_below_it() -> None:
    def above(file: Path) -> set[str]:
        part = part_of(file)
        if part not in MAY_IMPORT:
            return set()
        parts = {name.split(".")[1] for name in imports(file) if name.startswith(f"{PACKAGE}.")}
        return parts - MAY_IMPORT[part] - {"io"}  # files are written from every floor

    assert wrong(above) == {}


def test_a_library_is_imported_only_where_it_belongs() -> None:
    def out_of_place(file: Path) -> set[str]:
        libraries = {name.split(".")[0] for name in imports(file)} & ONLY_IN.keys()
        return {name for name in libraries if not path_of(file).startswith(ONLY_IN[name] or ("nowhere",))}

    assert wrong(out_of_place) == {}


def test_nothing_else_asks_which_label_kind_it_has_before_it() -> None:
    def asked(file: Path) -> set[str]:
        path = path_of(file)
        if path.startswith(MAY_NAME):
            return set()
        named = {node.id for node in nodes(file) if isinstance(node, ast.Name)}
        named |= {node.attr for node in nodes(file) if isinstance(node, ast.Attribute)}
        named |= {alias.name for node in nodes(file) if isinstance(node, ast.ImportFrom) for alias in node.names}
        allowed = {"DEFAULT_TASKS"} if path == SAVED else NAMESAKES.get(path, set())
        return (named & (KINDS | HEADS | {"singledispatch"})) ^ allowed

    assert wrong(asked) == {}


def test_label_kinds_need_numpy_alone() -> None:
    def outside(file: Path) -> set[str]:
        found = {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names
        return found - {PACKAGE, "numpy"} if part_of(file) == "labels" else set()

    assert wrong(outside) == {}


def test_no_user_is_answered_by_an_assertion() -> None:
    assert wrong(lambda file: [node.lineno for node in nodes(file) if isinstance(node, ast.Assert)]) == {}


def test_a_file_is_short_enough_to_be_read_at_once() -> None:
    assert wrong(lambda file: [n for n in [len(file.read_text().splitlines())] if n >= 300]) == {}


def test_no_chart_goes_by_pyplot_whose_state_is_global() -> None:
    assert wrong(lambda file: imports(file) & {"matplotlib.pyplot"}) == {}
