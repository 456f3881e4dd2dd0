"""What options of several commands mean, and how a mistake in one is told."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from umedpt_lightning.cli.parser_errors import explain


@contextmanager
def clear_errors(key: str = "", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns an error that the user can mend into one line, which names the key of the config where there is one."""
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, MemoryError, *also)
    try:
        yield
    except kinds as error:
        told = explain(str(error))
        raise SystemExit(f"umedpt: error: {key}: {told}" if key else f"umedpt: error: {told}") from error


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least so much."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Adds ``--classes``, whose values `find_class` takes."""
    help_text = "tasks, specs and blocks of your own"
    parser.add_argument("--classes", nargs="*", default=[], metavar="PACKAGE.CLASS", help=help_text)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `umedpt transfer` and `umedpt medmnist` share."""
    parser.add_argument("--config", action="config", help="YAML file.")
    parser.add_argument("--run", type=Path, default=None, help="Folder of the run; runs/<date-time> by default.")
    parser.add_argument("--root", type=str, default=".", help="What ${root} stands for in the paths of a config.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1 or auto.")
    parser.add_argument("--num_workers", type=int, default=0, help="Processes that read images.")


def find_class(path: str) -> type:
    """The class ``package.module.Class``; raises ImportError without the module, and ValueError without the class."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    if not isinstance(found, type):
        raise ValueError(f"--classes: {path} is no class. Write package.module.Class.")
    return found


def device_of(name: str) -> str:
    """The device that ``--device`` names, ``auto`` a GPU where there is one; raises ValueError for what is not here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise ValueError(
            f"--device {name} cannot be used here ({error!s:.200}). Give cpu, cuda, cuda:1 or auto."
        ) from error
    return name


def fill_root(value: Any, root: str) -> Any:
    """Replaces ``${root}`` in strings and paths, in place where `value` is a Namespace; ``~`` is the home folder."""
    root = os.path.expanduser(root)
    match value:
        case Path():
            return Path(fill_root(str(value), root))
        case str():
            return value.replace("${root}", root)
        case list() | tuple():
            return type(value)(fill_root(item, root) for item in value)
        case dict():
            return {key: fill_root(item, root) for key, item in value.items()}
        case Namespace():
            for key, item in vars(value).items():
                setattr(value, key, fill_root(item, root))
    return value
