"""What `mkdocs build` does beside reading Markdown: the README is the first page, the reference comes from the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
#: Where reference.md wants what the code says.
MARK = "<!-- what the code says -->"


def on_files(files: Files, config: Any) -> Files:
    """Adds the README as the first page."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    text = text.replace("](notebooks)", "](../notebooks)")  # which the site does not have
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the reference; links to files that the site does not have become plain words."""
    if MARK in markdown:
        markdown = markdown.replace(MARK, _load("reference").reference())
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def _load(name: str) -> ModuleType:
    """A program beside this one; mkdocs does not import hooks as a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
