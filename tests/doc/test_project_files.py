"""What those who carry on start from: hooks before commits, the workflow, and the page on Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import umedpt_lightning

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_hooks_have_the_versions_that_the_project_has() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pinned = {wanted for hook in config["repos"][0]["hooks"] for wanted in hook.get("additional_dependencies", [])}
    assert pinned
    assert pinned <= set(PROJECT["project"]["optional-dependencies"]["dev"])
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    subprocess.run(command, check=True)


def test_the_workflow_asks_for_lint_types_and_tests_with_the_oldest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert {"make lint", "make types", "make test", "make docs"} <= set(commands)
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)
    (version,) = (step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {}))
    assert PROJECT["project"]["requires-python"] == f">={version}"


def test_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "umedpt_lightning"
    places = [ROOT, package, *(folder for folder in package.iterdir() if folder.is_dir()), *(ROOT / "tests").iterdir()]
    places.append(package / "data" / "loading")
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", text))
    assert len(named) > 20
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_the_python_on_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    arrays = {}
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        arrays |= {f"{part}_images": np.zeros((count, 28, 28), np.uint8)}
        arrays |= {f"{part}_labels": np.arange(count)[:, None] % 2}
    np.savez("data/pneumoniamnist.npz", **arrays)
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(block, names)
    assert len(names["readers"]["train"]) == 4


def test_the_page_on_python_has_every_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from public_names import public_names

    found = re.findall(r"^::: ([\w.]+)\.(\w+)$", public_names(), re.MULTILINE)
    assert [name for _, name in found if name not in umedpt_lightning.__all__] == []
    assert sorted(name for _, name in found) == sorted(umedpt_lightning.__all__)
    for place, name in found:
        assert hasattr(sys.modules[place], name), name
