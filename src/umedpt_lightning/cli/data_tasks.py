"""The data of a config, piece by piece, so that one mistake does not hide the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from umedpt_lightning.cli.options import fill_root
from umedpt_lightning.cli.parser_errors import config_files, explain
from umedpt_lightning.cli.task_files import PARTS, choose, gather, in_words, load, root_of
from umedpt_lightning.data.check import Problem
from umedpt_lightning.data.check.problems import take_apart
from umedpt_lightning.data.check.sample import FINEST_STRIDE
from umedpt_lightning.data.formats.faults import each_of
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform


def read_config(files: Sequence[Path], root: str | None, only: Sequence[str] = ()) -> dict[str, Any]:
    """What configs say under ``data.tasks``, with ``${root}`` filled in; all else in them is ignored.

    The tasks of the files add up, as for `umedpt fit`; `only` names those that are wanted, none for all but those that
    the last ``leave_out`` of the files names. ``${root}`` is `root`, else what the files say, else the working folder.

    Raises ValueError where a file is no YAML of that form, or names no task, or there is none of a wanted name, and
    OSError where one cannot be read.
    """
    contents = {file: load(file) for file in files}
    tasks = gather(contents, root).get("data", {}).get("tasks", {})
    if not tasks:
        raise ValueError(f"{', '.join(map(str, files))}: no task is described under data.tasks. Add one.")
    if not only:
        said = [content["leave_out"] for content in contents.values() if content.get("leave_out") is not None]
        left_out = choose(in_words(said[-1]), "leave_out", tasks) if said else []
        only = [name for name in tasks if name not in left_out]
    tasks = {name: tasks[name] for name in choose(only, "--tasks", tasks)}
    filled: dict[str, Any] = fill_root(tasks, root_of(contents, root))
    return filled


def read_seed(files: Sequence[Path]) -> int:
    """What configs say under ``data.seed``, the last one counts, else 0; raises ValueError for what is no number."""
    seed: Any = 0
    for file in files:
        seed = _data(load(file)).get("seed", seed)
    if not isinstance(seed, int):
        raise ValueError(f"data.seed must be a whole number, but it is {seed!r}.")
    return seed


def read_stride(files: Sequence[Path]) -> float:
    """The finest stride of the detection decoder, as configs say it, pixels; the last one counts."""
    stride: Any = FINEST_STRIDE
    for file in files:
        decoder = (load(file).get("model") or {}).get("detection_decoder") or {}
        stride = (decoder.get("init_args") or {}).get("finest", stride) if isinstance(decoder, dict) else stride
    return float(stride) if isinstance(stride, int | float) else FINEST_STRIDE


def _data(content: dict[str, Any]) -> dict[str, Any]:
    data = content.get("data")
    return data if isinstance(data, dict) else {}


def build(config: Mapping[str, Any]) -> tuple[dict[str, TaskData], list[Problem]]:
    """The tasks of options as `read_config` gives them, with the readers that could be made, and what is wrong else."""
    tasks: dict[str, TaskData] = {}
    problems: list[Problem] = []
    for name, options in config.items():
        tasks[name] = TaskData()
        for option, value in options.items():
            if value is None and option in PARTS:
                continue
            key = f"data.tasks.{name}.{option}"
            try:
                made = make_reader(value) if option in PARTS else _option(option, value)
                setattr(tasks[name], option, made)
            except Exception as error:  # all of a user's mistakes are to be collected
                problems += _problems(name, option if option in PARTS else "", key, error)
        if not any(options.get(part) for part in PARTS):
            mend = f"Add one of {', '.join(PARTS)}."
            problems.append(Problem(name, "", f"data.tasks.{name}", "it has no data", mend, "setup"))
    return tasks, problems


def make_reader(options: Any) -> Reader:
    """The reader that a config describes; raises what is wrong with it."""
    reader: Reader = _make(Reader, options)
    if not len(reader):
        raise ValueError("it holds no sample. Correct its options, or leave the part out.")
    if not hasattr(reader, "spec"):
        raise ValueError(f"{type(reader).__name__} has no `spec`. Correct the reader.")
    return reader


def _option(name: str, value: Any) -> Any:
    task: TaskData = _make(TaskData, {name: value})
    for option, number in (("batch_size", task.batch_size), ("micro_batches", task.micro_batches)):
        if number < 1:
            raise ValueError(f"{option} must be positive, but it is {number}. Correct it.")
    Transform(task.size, task.augment)  # raises for a size that cannot be
    return getattr(task, name)


def task_faults(arguments: Sequence[str]) -> list[str]:
    """What a parser refuses in the tasks of the configs that a command line names, each with its key.

    The parser's own message does not name the task. Nothing is built.
    """
    faults = []
    try:
        tasks = read_config(config_files(arguments), None)
    except (ValueError, OSError):  # all in it is on the command line, or the parser says the same
        return []
    for name, options in tasks.items():
        for option, value in options.items():
            try:
                _parsed(TaskData, {option: value})
            except jsonargparse.ArgumentError as error:
                what = explain(str(error)).removeprefix(f"{option}: ")
                faults.append(f"data.tasks.{name}.{option}: {what}")
    return faults


def _parsed(kind: type[Any], options: Any) -> tuple[jsonargparse.ArgumentParser, jsonargparse.Namespace]:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser, parser.parse_object({"it": options})


def _make(kind: type[Any], options: Any) -> Any:
    """An object of that type from its options, types checked as `umedpt fit` does."""
    parser, parsed = _parsed(kind, options)
    return parser.instantiate(parsed).it


def _problems(task: str, part: str, key: str, error: Exception) -> list[Problem]:
    mend = f"Correct {key} in the config."
    problems = []
    for fault in each_of(error):
        text = explain(str(fault))
        if isinstance(fault, jsonargparse.ArgumentError):
            problems.append(Problem(task, part, key, text, mend, "setup"))
        else:
            told = fault if text == str(fault) else ValueError(text)
            problems.append(Problem(task, part, *take_apart(told, key, mend), "setup"))
    return problems
