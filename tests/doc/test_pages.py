"""What holds for all pages: their commands are understood, they are in the site, and the reference has everything."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from benchmarks.processes import in_fresh_process
from benchmarks.suite import BENCHMARKS
from umedpt_lightning import tasks
from umedpt_lightning.cli import COMMANDS, main
from umedpt_lightning.cli.completion import parser_of
from umedpt_lightning.data import readers
from umedpt_lightning.data.loading import schedule
from umedpt_lightning.transfer import sources

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")), *DOCS]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def lines(page: Path) -> list[str]:
    return "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()


def commands() -> list[Any]:
    found = [
        (page.stem, words)
        for page in PAGES
        for line in lines(page)
        for words in [shlex.split(line.partition(" > ")[0], comments=True)]
        if words[:1] == ["umedpt"]
    ]
    return [pytest.param(words[1:], id=f"{page}: {' '.join(words[:4])}") for page, words in found]


@pytest.mark.parametrize("words", commands())
def test_every_command_is_understood(words: list[str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # for the configs that are named
    command, *options = words
    assert command in COMMANDS
    if "--config" in options and not Path(options[options.index("--config") + 1]).is_file():
        options[options.index("--config") + 1] = str(project / "config.yaml")
    parser = parser_of(command)
    if "--help" in options:
        with pytest.raises(SystemExit, match="0"):
            parser.parse_args(options)
    else:
        assert parser.parse_args(options)


def test_a_command_that_is_not_there_would_be_found(project: Path) -> None:
    for words in (["fit", "--confg", "x"], ["export", "--ot", "x"], ["transfer", "--seeds", "3"]):
        parser = parser_of(words[0])
        with pytest.raises((SystemExit, argparse.ArgumentError)):
            parser.parse_args(words[1:])


def test_other_commands_are_there() -> None:
    for page in PAGES:
        for line in lines(page):
            match shlex.split(line, comments=True):
                case ["make", *targets]:
                    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)
                case ["python", "-m", "benchmarks", *names]:
                    assert set(names) <= BENCHMARKS.keys()
        for names in re.findall(r"`python -m benchmarks ([\w ]+)`", page.read_text(encoding="utf-8")):
            assert set(names.split()) <= BENCHMARKS.keys()


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_site() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- .*: ([\w-]+\.md)", config, re.MULTILINE)
    assert sorted(listed) == sorted(["index.md", "architecture.md", "contributing.md", *(page.name for page in DOCS)])


def reference() -> str:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.reference()
    return text


def test_the_reference_has_all_classes_and_options(schema: dict[str, Any]) -> None:
    text = in_fresh_process(reference)
    headings = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    schedules = {
        one.__name__ for one in vars(schedule).values() if isinstance(one, type) and one.__module__ == schedule.__name__
    }
    expected = set(readers.__all__) - {"Reader", "Table"}
    expected |= {task.__name__ for task in tasks.DEFAULT_TASKS.values()}
    expected |= schedules - {"Schedule", "TaskSize"}
    expected |= {one.__name__ for one in sources.WeightSource.__subclasses__() if one.__module__ == sources.__name__}
    expected |= {"Encoder", "PixelDecoder", "DetectionDecoder", "EarlyStopping", "EMAWeightAveraging", "WandbLogger"}
    assert expected <= headings
    for name in schema["properties"]:
        assert f"`{name}`" in text
    for options in schema["definitions"]["TaskData"]["properties"]:
        assert f"| `{options}` |" in text
    ours = text.partition("## Callbacks of Lightning")[0]
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in re.findall(r"^\| `.*\|$", ours, re.MULTILINE)]
    assert len(rows) > 200
    without = [key for key, *_, description in rows if not description.strip()]
    assert without == []
    links = set(re.findall(r"\]\(#([\w-]+)\)", text))
    anchors = {name.lower() for name in headings} | set(re.findall(r"\{#([\w-]+)\}", text))
    assert links <= anchors


def test_the_example_for_editors_is_valid(schema: dict[str, Any]) -> None:
    (block,) = blocks(ROOT / "docs" / "reference.md", "yaml")
    assert block.startswith("# yaml-language-server: $schema=umedpt.schema.json\n")
    (command,) = (line for line in lines(ROOT / "docs" / "reference.md") if line.startswith("umedpt schema"))
    assert command.split()[3] == "umedpt.schema.json"
    Draft7Validator(schema).validate(yaml.safe_load(block))


def test_the_reader_on_the_page_trains(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(ROOT / "docs" / "how-it-works.md", "python")
    (tmp_path / "noise_package.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = {"class_path": "noise_package.Noise", "init_args": {"size": 20}}
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["data"]["tasks"] = {"noise": {"train": reader, "val": reader}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]["metrics"]
    assert metrics["noise/auroc"] > 0.5, "which is that of no image at all"


@pytest.mark.slow
def test_the_site_is_built_strictly_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.glob("*.html"))
    assert {"index.html", "reference.html", "training.html", "how-it-works.html"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(
            r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//[^"]+"|<link[^>]*href="(?:https?:)?//[^"]+"', text
        )
        assert fetched == [], page.name
    assert "MaskFolders" in (tmp_path / "reference.html").read_text(encoding="utf-8")
    assert (tmp_path / "pictures" / "data_way.svg").is_file()
    assert not list(tmp_path.rglob("*.py"))


def test_the_drawing_is_that_of_its_program() -> None:
    spec = importlib.util.spec_from_file_location("make_drawing", ROOT / "docs" / "make_drawing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.FILE.read_text(encoding="utf-8") == module.svg(module.drawing())


def test_the_python_on_the_page_of_the_demo_data_runs(demo_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(demo_data.parent))
    (block,) = blocks(ROOT / "docs" / "demo-data.md", "python")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["folder"] == demo_data
    assert names["part"].images > 0
