"""How a command of `umedpt` starts."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from umedpt_lightning import cli

MODULE = """
import gc

found = [gc.isenabled()]
{fault}

def main(command, arguments):
    found.append(gc.isenabled())
"""


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str = "") -> list[bool]:
    """Whether garbage is collected while the module of a command is imported, and while the command runs."""
    name = f"command_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(MODULE.format(fault=fault))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(cli.COMMANDS, "mine", cli.Command("mine", name))
    cli.main(["mine"])
    found: list[bool] = sys.modules[name].found
    return found


def test_garbage_is_collected_while_a_command_runs_and_not_while_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert start(monkeypatch, tmp_path) == [False, True]
    assert gc.isenabled()


def test_garbage_is_collected_after_an_import_that_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        start(monkeypatch, tmp_path, fault="1 / 0")
    assert gc.isenabled()
