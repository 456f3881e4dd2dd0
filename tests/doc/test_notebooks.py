"""The notebooks run from any folder, as a user runs them, and git has them without outputs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from benchmarks.processes import in_fresh_process
from umedpt_lightning.cli import main

FILES = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
#: How many each of them shows.
PICTURES = {"first_steps": 2, "own_data": 2, "python_only": 1, "transfer": 1}
SECONDS = 240  # for a cell on a busy machine


def read(file: Path) -> nbformat.NotebookNode:
    return nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]  # nbformat's are not typed


def execute(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """The notebook with its outputs; a command that fails fails the test, which IPython would not notice."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = read(file)
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "")
            assert "umedpt: error" not in text, text
            assert "Traceback" not in text, text
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum(bool({"image/png", "image/svg+xml"} & output.get("data", {}).keys()) for output in outputs)


def _marked(file: Path) -> Any:
    """Two of them train for longer than others."""
    return pytest.param(file, marks=pytest.mark.slow) if file.stem in ("first_steps", "transfer") else file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_git_has_no_outputs(file: Path) -> None:
    notebook = read(file)
    nbformat.validate(notebook)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None
        assert not cell.metadata
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}


def play(file: Path, folder: Path) -> int:
    """Runs a notebook's cells in this process, commands too, which have not to import all anew; the pictures shown."""
    from IPython.core.interactiveshell import InteractiveShell

    torch.set_num_threads(1)
    os.chdir(folder)
    shell = InteractiveShell.instance()

    def system(line: str) -> None:
        program, *arguments = shlex.split(shell.var_expand(line, depth=1))
        assert program == "umedpt", line
        try:
            main(arguments)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{line} ends with {end.code}") from end

    shell.system = system
    shown = 0
    for cell in read(file).cells:
        if cell.cell_type == "code":
            result = shell.run_cell(cell.source)
            result.raise_error()
            shown += bool({"image/png", "image/svg+xml"} & shell.display_formatter.format(result.result)[0].keys())
    return shown


@pytest.mark.parametrize("file", [_marked(file) for file in FILES], ids=lambda file: file.stem)
def test_its_cells_run_and_show_its_pictures(
    file: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(demo_data.parent))
    assert in_fresh_process(play, file, tmp_path) == PICTURES[file.stem]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_and_shows_its_pictures(
    file: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(demo_data.parent))
    assert pictures(execute(file, tmp_path, monkeypatch)) == PICTURES[file.stem]
