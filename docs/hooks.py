"""What `mkdocs build` does beside reading Markdown: pages of the repository's root, and references made of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
#: Where reference.md wants what the code says, and api.md the public names.
MARK, NAMES = "<!-- what the code says -->", "<!-- public names -->"
#: Pages of the repository's root, by their names in the site.
FROM_ROOT = {"index.md": "README.md", "architecture.md": "ARCHITECTURE.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of the root."""
    for name, file in FROM_ROOT.items():
        text = (DOCS.parent / file).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, root in FROM_ROOT.items():
            text = text.replace(f"]({root})", f"]({other})")
        text = text.replace("](notebooks)", "](../notebooks)")  # which the site does not have
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the references; links to files that the site does not have become plain words."""
    if MARK in markdown:
        markdown = markdown.replace(MARK, _load("reference").reference())
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, _load("public_names").public_names())
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def _load(name: str) -> ModuleType:
    """A program beside this one; mkdocs does not import hooks as a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
