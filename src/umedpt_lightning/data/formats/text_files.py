"""Text, JSON and YAML files, whatever program wrote them: a wrong encoding is named with its line, never guessed."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from umedpt_lightning.data.formats.missing import no_such_file

#: By the bytes that a file begins with, the longer ones first: that of UTF-16 begins that of UTF-32.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-8, UTF-16 or UTF-32 with a byte order mark.

    Raises FileNotFoundError where there is no such file, and ValueError for another encoding, with the line.
    """
    if not file.is_file():
        raise no_such_file(file, "Correct the path in the configuration, or the table that names it.")
    content = file.read_bytes()
    encoding = _encoding(content)
    mend = "Save it as UTF-8 (in Excel as 'CSV UTF-8')."
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        start, end = content.rfind(b"\n", 0, error.start) + 1, content.find(b"\n", error.start)
        line = content[start : None if end < 0 else end].strip().decode("cp1252", "replace")
        number = content.count(b"\n", 0, start) + 1
        raise ValueError(
            f"{file} line {number}: this is no text in {encoding.upper().removesuffix('-SIG')}, for the byte "
            f"{content[error.start]:#x}. Windows' encoding cp1252 would read {line[:80]!r}. {mend}"
        ) from error
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{file} line {number}: there are zero bytes, as in UTF-16 without a byte order mark. {mend}")
    return text


@contextmanager
def open_lines(file: Path) -> Iterator[Iterator[str]]:
    """The lines of a text file, with their ends, one by one; raises as `read_text`, when it comes to a bad one."""
    if not file.is_file():
        read_text(file)
    with file.open("rb") as stream:
        mark = stream.read(4)
    encoding = _encoding(mark)

    def checked(stream: TextIO) -> Iterator[str]:
        try:
            for line in stream:
                if "\0" in line:
                    read_text(file)
                yield line
        except UnicodeDecodeError:
            read_text(file)  # it names the line
            raise

    with file.open(encoding=encoding, newline="") as text:
        yield checked(text)


def _encoding(content: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")


def read_json(file: Path) -> Any:
    """The content of a JSON file; raises as `read_text`, and ValueError where it is no JSON, with the line."""
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file} line {error.lineno}"
        raise ValueError(f"{place}: not a JSON file ({error.msg} at column {error.colno}). Export it again.") from error
    except RecursionError as error:
        raise ValueError(f"{file}: not a JSON file of any use ({error}). Export it again.") from error


def read_yaml(file: Path, loader: Callable[[str], Any] = yaml.safe_load) -> Any:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: As for `read_text`.
        ValueError: As for `read_text`; it is no YAML, or a mapping has a key twice, of which YAML keeps the last.
    """
    text = read_text(file)
    try:
        repeated = _repeated(yaml.compose(text, Loader=_SafeLoader), set())
        content = loader(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not a YAML file ({error}). Correct it.") from error
    if repeated is not None:
        line = repeated.start_mark.line + 1
        raise ValueError(f"{file} line {line}: {repeated.value!r} stands twice here. Rename one, or remove it.")
    return content


#: That of libyaml where it is there, which is ten times as fast.
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _repeated(node: yaml.Node | None, seen: set[int]) -> yaml.ScalarNode | None:
    """The first key that a mapping has twice; `seen` holds the nodes that were looked at, which anchors repeat."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return None
    seen.add(id(node))
    inner: list[yaml.Node] = node.value
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":  # that may merge several
                if key.value in keys:
                    return key
                keys.add(key.value)
        inner = [value for _, value in node.value]
    return next(filter(None, (_repeated(one, seen) for one in inner)), None)
