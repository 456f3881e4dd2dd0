"""The tasks that configs describe: mappings, files and folders of files, which add up."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from umedpt_lightning.cli.options import fill_root
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.formats.text_files import read_yaml
from umedpt_lightning.labels.wording import near
from umedpt_lightning.tasks.names import check_task_names

PARTS = ("train", "val", "test")
#: What a config says by the names of tasks, which the parser would take from the last file alone.
_BY_TASK = (("data", "tasks"), ("model", "tasks"), ("model", "weights"))
_SUFFIXES = (".yaml", ".yml")


def load(file: Path) -> dict[str, Any]:
    """A config as the parser reads it; empty where it is no mapping.

    Raises:
        ValueError: It is no YAML.
        OSError: It cannot be read.
    """
    content = read_yaml(file, get_loader("yaml"))
    return content if isinstance(content, dict) else {}


def choose(names: Iterable[str], option: str, tasks: Iterable[str]) -> list[str]:
    """The names that an option gives, each checked.

    Raises:
        ValueError: There is no such task.
    """
    known, chosen = list(tasks), list(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"{option}: there is no task {name!r}. {near(name, known)}")
    return chosen


def in_words(value: str | Sequence[str]) -> list[str]:
    """A list, or text with commas, as names."""
    names = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in names if name.strip()]


def gather(contents: Mapping[Path, dict[str, Any]], root: str | None) -> dict[str, dict[str, Any]]:
    """What several configs say together of tasks, their heads and weights.

    A task is described once. What a later mapping says of it without a part (train, val, test) that it has already
    changes it; all else is a second description.

    Args:
        contents: Configs by their files, later ones over earlier ones.
        root: What ``${root}`` stands for; None for what the files say. A file that another one names may say a root of
            its own.

    Returns:
        ``{"data": {"tasks": ...}, "model": {"tasks": ..., "weights": ...}}``, without what nothing is said of.

    Raises:
        ValueError: A task is described twice, or an entry is none of the forms.
        OSError: A file is missing, or cannot be read.
    """
    found = _Tasks(contents, root)
    for file, content in contents.items():
        found.add(file, content)
    whole: dict[str, dict[str, Any]] = {}
    for (section, key), values in found.values.items():
        if values:
            whole.setdefault(section, {})[key] = values
    return whole


def with_all_tasks(arguments: Sequence[str]) -> list[str]:
    """A command line whose configs say what all of them together say of tasks.

    A file is named as before where the parser understands it by itself; else its content takes its place.

    Raises:
        ValueError: As for `gather`.
        OSError: As for `gather`.
    """
    # all that is no file is the parser's to tell
    places = {Path(value): i for i, value in _values(arguments, "-c", "--config") if Path(value).is_file()}
    contents = {file: load(file) for file in places}
    saying = [file for file, content in contents.items() if any(_at(content, *key) for key in _BY_TASK)]
    plain = all(isinstance(_at(contents[file], *_BY_TASK[0]) or {}, dict) for file in saying)
    if plain and len(saying) < 2:
        return list(arguments)
    result, roots = list(arguments), [root for _, root in _values(arguments, "--root")]
    whole = gather(contents, roots[-1] if roots else None)
    for file in saying:
        content = contents[file]
        for section, key in _BY_TASK:
            if isinstance(content.get(section), dict):
                content[section] = {name: value for name, value in content[section].items() if name != key}
        if file == saying[-1]:
            content |= {section: {**(content.get(section) or {}), **values} for section, values in whole.items()}
        given = "--config=" if result[places[file]].startswith(("-c=", "--config=")) else ""
        result[places[file]] = given + json.dumps(content, default=str, ensure_ascii=False)
    return result


def root_of(contents: Mapping[Path, dict[str, Any]], given: str | None) -> str:
    """What ``${root}`` stands for: what is given, else what the last of the configs says, else the working folder."""
    said = [str(content["root"]) for content in contents.values() if content.get("root")]
    return (said or ["."])[-1] if given is None else given


def _values(arguments: Sequence[str], *names: str) -> Iterator[tuple[int, str]]:
    """The values of an option, each with the place of the word that it stands in."""
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names and (equals or i + 1 < len(arguments)):
            yield (i, value) if equals else (i + 1, arguments[i + 1])


class _Tasks:
    """What was found so far.

    Args:
        contents: As for `gather`.
        root: As for `gather`.
    """

    def __init__(self, contents: Mapping[Path, dict[str, Any]], root: str | None) -> None:
        self._given = root
        self._root = root_of(contents, root)
        self._read: set[Path] = set()
        self._described: dict[str, Path] = {}
        self.values: dict[tuple[str, str], dict[str, Any]] = {key: {} for key in _BY_TASK}

    def add(self, file: Path, content: dict[str, Any], named: bool = False) -> None:
        """What a file says, one that another file names where `named`."""
        self._read.add(file.resolve())
        own = content.get("root") if named and self._given is None else None
        content = fill_root(content, str(own)) if own else content
        for key in _BY_TASK[1:]:
            if isinstance(options := _at(content, *key), dict):
                self.values[key] |= options
        entries = _at(content, *_BY_TASK[0])
        for entry in entries if isinstance(entries, list) else [entries]:
            match entry:
                case None:
                    continue
                case str():
                    for other in self._files(entry, file):
                        if other.resolve() not in self._read:
                            self._include(other)
                case dict() if all(isinstance(task, dict) for task in entry.values()):
                    if entry:
                        check_task_names(entry, {})
                    for name, options in entry.items():
                        self._describe(name, options, file, named)
                case _:
                    raise ValueError(
                        f"{file}: data.tasks must hold a mapping of options a task, the path of a file or folder of "
                        f"tasks, or a list of these, but it has {entry!s:.60}. Correct it."
                    )

    def _include(self, file: Path) -> None:
        content = load(file)
        if not _at(content, *_BY_TASK[0]):
            raise ValueError(f"{file}: no task is described under data.tasks. Add one, or leave the file out.")
        others = {f"{key}.{inner}" for key in ("data", "model") for inner in content.get(key) or {}}
        others = (others | content.keys()) - {".".join(key) for key in _BY_TASK} - {"data", "model", "root"}
        if others:
            raise ValueError(
                f"{file}: a file that data.tasks names describes tasks, their heads (model.tasks) and weights "
                f"(model.weights), but this one also says {', '.join(sorted(others))}. Take that out, or give the file "
                "as --config."
            )
        self.add(file, content, named=True)

    def _describe(self, name: str, options: dict[str, Any], file: Path, named: bool) -> None:
        tasks = self.values[_BY_TASK[0]]
        known = tasks.get(name, {})
        if name in tasks and (named or any(known.get(part) and options.get(part) for part in PARTS)):
            raise ValueError(
                f"The task {name} is given twice: in {self._described[name]} and in {file}. Leave one of them out, or "
                "give it another name."
            )
        self._described.setdefault(name, file)
        tasks[name] = {**known, **options}

    def _files(self, entry: str, file: Path) -> Iterator[Path]:
        """The files that an entry means: from where ``${root}`` is, else from where `file` lies."""
        path = Path(fill_root(os.path.expanduser(entry), self._root))
        path = path if "${root}" in entry else file.parent / path
        if path.is_dir():
            # hidden ones are what systems leave there
            found = [one for one in sorted(path.iterdir()) if one.suffix in _SUFFIXES and not one.name.startswith(".")]
        else:
            found = (
                [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            )
        if not found and (path.is_dir() or glob.has_magic(str(path))):
            raise FileNotFoundError(f"{path}: there is no YAML file here, but {file} names it. Correct data.tasks.")
        if not found:
            raise no_such_file(path, "Correct data.tasks.", f", but {file} names it")
        yield from found


def _at(content: Mapping[str, Any], section: str, key: str) -> Any:
    inner = content.get(section)
    return inner.get(key) if isinstance(inner, dict) else None
