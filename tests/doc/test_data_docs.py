"""Every YAML block of the page on data is understood, and every reader is on it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from umedpt_lightning.data import readers
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]
for page in ("bags", "survival", "unlabelled"):
    found = re.findall(r"^```yaml\n(data:.*?)^```", PAGE.with_stem(page).read_text(), re.DOTALL | re.MULTILINE)
    BLOCKS += [yaml.safe_load(block) for block in found]
#: Reader and shortest options in the rows of the table.
ROWS = re.findall(r"^\|[^|]*\|[^|]*\| \[?`(\w+)`(?:\]\([^)]+\))? \| `(.*)` \|$", TEXT, re.MULTILINE)


def parse(kind: type[Any], options: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    parser.parse_object({"it": options})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.get("class_path", "tasks"))
def test_blocks_have_no_wrong_key(block: dict[str, Any]) -> None:
    if "class_path" in block:
        parse(Reader, block)
    else:
        assert block.keys() == {"data"}
        assert block["data"].keys() <= inspect.signature(MultiTaskDataModule).parameters.keys()
        for task in block["data"].get("tasks", {}).values():
            parse(TaskData, task)


@pytest.mark.parametrize(("name", "options"), ROWS)
def test_rows_have_no_wrong_key(name: str, options: str) -> None:
    whole = "{class_path: ClassFolders, init_args: {folder: x}}"
    parse(Reader, {"class_path": name, "init_args": yaml.safe_load(options.replace("...", whole))})


def test_wrong_keys_would_be_found() -> None:
    for options in ({"folder": "x", "clases": ["a"]}, {}):
        with pytest.raises(ArgumentError, match=r"clases|folder"):
            parse(Reader, {"class_path": "ClassFolders", "init_args": options})


def test_every_reader_is_in_the_table_and_has_an_example() -> None:
    names = set(readers.__all__) - {"Reader", "Table"}
    assert {name for name, _ in ROWS} == names
    assert set(re.findall(r"class_path: (\w+)", TEXT)) == names


def test_links_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
