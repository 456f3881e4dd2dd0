"""What jsonargparse says of a config, in a sentence: its own message is a tree of all that it tried."""

from __future__ import annotations

import argparse
import codecs
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jsonargparse

from umedpt_lightning.data.formats.text_files import read_yaml

_CLASS = "Problem with given class_path "
_UNION = "Does not validate against any of the Union subtypes"
#: What is said of those types of a union that the user did not mean.
_NOT_MEANT = re.compile(
    r"Expected a |Not of type Path|Import path .* does not correspond|Option '.*' is not accepted|"
    r".*__init__\(\) got an unexpected"
)
_VALUE = re.compile(r"(?s)Expected (?:a |one of )?(?P<wanted>.*?)\. Got value: (?P<found>.*)")
_CALLABLE = re.compile(
    r"(?s)Type \S*Callable\S* .*expects a function or a callable class: (?P<cause>.*)\. "
    r"Got value: (?:Namespace\(class_path=)?'?(?P<path>[\w.]+)"
)
#: What is said first of a class that is given on the command line, where it might have been a file's name.
_NO_PATH = re.compile(r"(?m)^ *- Expected a path but .* either not accessible or invalid\n(?= *- )( *)- ")
_NOT_OF = re.compile(r"Expected '([\w.]+)' to be a subclass of <class '(?:[\w.]+\.)?(\w+)'>")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>.*)")
#: The optional dependency that brings a library whose classes a config may name.
_EXTRAS = {"torchjd": "balance"}
_MISSING = re.compile(r"the following arguments are required: (?P<keys>.*?)\.?")
#: How text begins that the parser cannot read.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_NO_MODULE = re.compile(r"No module named '(?P<module>[\w.]+)'")


class _Line(NamedTuple):
    indent: int
    text: str


def parse(
    parser: jsonargparse.ArgumentParser,
    arguments: Sequence[str],
    faults: Callable[[], Sequence[str]] = list,
    prepare: Callable[[Sequence[str]], list[str]] = list,
) -> jsonargparse.Namespace:
    """What a parser makes of arguments that `prepare` changes, or SystemExit with 2 after the cause was printed.

    Where it refuses them, `faults` are told in place of the parser's own message, if there are any.
    """
    parser.exit_on_error = False
    try:
        for file in filter(_is_file, config_files(arguments)):  # of which the parser's messages lack the name
            read_yaml(file)
            if file.read_bytes().startswith(_WIDE):
                raise ValueError(f"{file}: this is UTF-16 or UTF-32, but configs are UTF-8. Save it as UTF-8.")
        return parser.parse_args(prepare(_configs_first(arguments)))
    except (jsonargparse.ArgumentError, ValueError, OSError) as error:
        ours = not isinstance(error, jsonargparse.ArgumentError)
        told = [str(error).rstrip(".")] if ours else faults() or [explain(str(error))]
        print(*(f"umedpt: error: {text}." for text in told), sep="\n", file=sys.stderr)
        print("`umedpt COMMAND --help` lists all options.", file=sys.stderr)
        raise SystemExit(2) from error


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The configs that a command line names."""
    return [Path(config) for config in _apart(arguments)[0]]


def _configs_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with configs before all else: the parser lets one overrule the options that stand before it."""
    configs, others = _apart(arguments)
    return [*(f"--config={config}" for config in configs), *others]


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a command line gives as configs, and its other arguments, each in their order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    known, others = parser.parse_known_args(list(arguments))
    return known.config, others


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a config may be given as text, in place of a file
        return False


def explain(message: str) -> str:
    """The cause in a message of jsonargparse, with the keys that lead to it; another message stays as it is."""
    if match := _MISSING.fullmatch(message):
        keys = [re.sub(r"^\w+\.(?=(model|data|trainer)\.)", "", key) for key in match["keys"].split(", ")]
        return f"{', '.join(keys)}: it is not given. Write it into a config, or give --{keys[0]}"
    if not re.search(rf"Parser key |{_CLASS}|{_UNION}|Expected an? |Import path |Group 'it'", message):
        return message
    message = _NO_PATH.sub(r"\1", message)
    lines = [_Line(len(line) - len(line.lstrip()), line.strip()) for line in message.splitlines() if line.strip()]
    return _tidy(_cause(lines))


def _cause(lines: Sequence[_Line], module: str = "") -> str:
    """Of a block whose first line says what it is about; `module` is that of the class that it is about."""
    head, inner = lines[0].text, list(lines[1:])
    if head.startswith('Parser key "'):
        _, key, cause = head.split('"', 2)
        key, cause = key.removeprefix("it.").removeprefix("it"), cause.lstrip(": ")
        cause = cause or (_cause(inner, module) if inner else "")
        return f"{key}: {cause}" if key else cause
    if head.startswith(_CLASS):
        path = head.removeprefix(_CLASS).strip("':")
        cause = _cause(inner, path.partition(".")[0]) if inner else ""
        return f"{path.rpartition('.')[2]}: {_import_fault(path, cause) or cause}"
    if head == _UNION:
        return _union(inner, module)
    return "\n".join(line.text for line in lines)


def _union(lines: Sequence[_Line], module: str) -> str:
    indent = lines[0].indent
    fields = {name: text for name, _, text in (line.text.partition(": ") for line in lines if line.indent == indent)}
    causes: list[list[_Line]] = []
    for line in (line for line in lines if line.indent > indent):
        if line.text.startswith("- ") and (not causes or line.indent <= causes[0][0].indent - 2):
            causes.append([_Line(line.indent + 2, line.text[2:])])
        elif causes:
            causes[-1].append(line)
    given = fields.get("Given value", "")
    if "'class_path'" in given and (unknown := next((c for c in causes if _NO_CLASS.match(c[0].text)), None)):
        return _cause(unknown, module)
    told = [_cause(cause, module) for cause in causes if not _NOT_MEANT.match(cause[0].text)]
    meant = [cause for cause in told if not _NOT_MEANT.match(cause.rpartition(": ")[2])]
    if meant or len(told) == 1:
        return (meant or told)[0]
    names = ", ".join(cause.partition(":")[0] for cause in told)
    known = f" (it may be one of {names}, each with other keys)" if told else ""
    return _given(given, fields.get("Subtypes", "")) + known


def _import_fault(path: str, cause: str) -> str:
    """Why a class of the user's own was not found; empty where that is not the cause."""
    if not (match := _NO_MODULE.match(cause)):
        return ""
    missing = match["module"]
    if extra := _EXTRAS.get(missing.partition(".")[0]):
        return f"{missing} is not installed. Install it with: pip install 'umedpt-lightning[{extra}]'"
    if path.startswith(f"{missing}.") or path == missing:
        return (
            f"there is no module {missing}. It is looked for in the current folder, {os.getcwd()}, and among the "
            f"installed packages: start umedpt where {missing.partition('.')[0]}.py lies, or put that folder into "
            "PYTHONPATH"
        )
    return f"its module cannot be imported, since {missing}, which it imports, is not installed"


def _given(found: str, wanted: str) -> str:
    wanted = _types(wanted)
    number = re.fullmatch(r"True|False|[-+.\de]+", found) and re.search(r"\bstr\b", wanted)
    return f"{found} is given, but it must be {wanted}" + (f": put it in quotes, '{found}'" if number else "")


def _types(text: str) -> str:
    """A list of types as users write them."""
    text = text[1:-1] if text.startswith("[") else text
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"\btyping\.|\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)
    if text.startswith("Literal["):
        return "one of " + re.sub(r"Literal\[(.*?)\]", r"\1", text)
    return re.sub(r", (\w+)$", r" or \1", text)


def _tidy(cause: str) -> str:
    cause = re.sub(r"^TaskData: ", "", cause)
    if re.match(r"Group 'it' does not accept option", cause):
        return "there is no such option"
    if match := _CALLABLE.search(cause):
        cause = cause[: match.start()] + (_import_fault(match["path"], match["cause"]) or match["cause"])
    elif match := _VALUE.search(cause):
        cause = f"{cause[: match.start()]}{_given(match['found'], match['wanted'])}"
    elif match := _NO_CLASS.search(cause):
        told = f"no class of the name {match['name']} is known here. Write one of those in the documentation, or "
        cause = f"{cause[: match.start()]}{told}module.Class"
    elif cause.startswith("Expected an instantiatable class"):
        kind = re.sub(r".* but (?:[\w.]+\.)?(\w+) is abstract.*", r"\1", cause)
        cause = (
            f"it does not say which {kind} is meant. Write `class_path: ` and its name, and its options in `init_args`"
        )
    cause = _NOT_OF.sub(r"\1 is no \2", " ".join(cause.split()))
    return cause if ". " in cause else cause.rstrip(".")
