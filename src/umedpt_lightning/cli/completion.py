"""``umedpt completion``: a script with which a shell completes commands, options and their values by itself.

Completing starts no Python: importing what the options are defined by would take seconds at every press of the key.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import shtab

from umedpt_lightning.cli import COMMANDS

#: Options that are declared as strings and name a file or a folder.
_PATHS = {"config", "run", "root", "ckpt_path"}


def main(command: str, arguments: Sequence[str]) -> None:
    """Prints the script."""
    parser = argparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Print a script that completes umedpt's commands and options. For bash: "
        'umedpt completion bash > ~/.local/share/bash-completion/completions/umedpt; for zsh put it as "_umedpt" into '
        "a folder of $fpath.",
    )
    parser.add_argument("shell", choices=["bash", "zsh"])
    shell = parser.parse_args(arguments).shell
    print(shtab.complete(_all_commands(), shell))


def _all_commands() -> argparse.ArgumentParser:
    """A parser of plain options that knows those of every command."""
    whole = argparse.ArgumentParser(prog="umedpt")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers()
    for name, command in COMMANDS.items():
        options = commands.add_parser(name, help=command.help)
        with suppress(ImportError):  # an extra is not installed: then the command's name alone
            _copy(parser_of(name), options)
    return whole


class _HelpIsAsked(BaseException):  # no command's `except Exception` is meant
    pass


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that answers ``umedpt COMMAND --help``, however the command builds it."""

    def print_help(self: argparse.ArgumentParser, file: Any = None) -> None:
        raise _HelpIsAsked(self)

    with patch.object(argparse.ArgumentParser, "print_help", print_help), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(COMMANDS[command].module).main(command, ["--help"])
        except _HelpIsAsked as asked:
            parser: argparse.ArgumentParser = asked.args[0]
            return parser
    raise RuntimeError(f"umedpt {command} --help shows no help of a parser")


def _copy(source: argparse.ArgumentParser, target: argparse.ArgumentParser) -> None:
    """Gives a parser the options of another one, with what may stand behind them."""
    for action in source._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            kinds = target.add_subparsers()
            for name, kind in action.choices.items():
                _copy(kind, kinds.add_parser(name, help=kind.description))
            continue
        names = action.option_strings or [action.dest]
        help_text = re.sub(r" *\([^()]*%\(default\)s[^()]*\)|%\(default\)s", "", action.help or "").replace("%", "%%")
        if action.nargs == 0:
            target.add_argument(*names, action="store_true", help=help_text)
            continue
        added = target.add_argument(*names, nargs=action.nargs, help=help_text, choices=_choices(action))
        if added.choices is None and _is_path(action):
            added.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab wants to be told


def _choices(action: argparse.Action) -> list[str] | None:
    """The values that an option may have, if they can be listed."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    values: list[str] = []
    for kind in _kinds(action):
        if kind is bool:
            values += ["true", "false"]
        elif get_origin(kind) is Literal:
            values += [str(value) for value in get_args(kind)]
    return values or None


def _is_path(action: argparse.Action) -> bool:
    kinds = [kind for kind in _kinds(action) if isinstance(kind, type)]
    return action.dest in _PATHS or any(issubclass(kind, os.PathLike | Path) for kind in kinds)


def _kinds(action: argparse.Action) -> Iterable[Any]:
    """The types of an option's value; jsonargparse keeps them in a place of its own."""
    kind = getattr(action, "_typehint", action.type)
    return get_args(kind) if get_origin(kind) is not None and get_origin(kind) is not Literal else [kind]
