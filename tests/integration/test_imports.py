"""What a command imports before it starts: each library that it does without is seconds that its user need not wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

#: Imports in this order, each with what it must not bring; the earlier ones bring less. One process imports all of
#: them, since torch alone takes seconds.
WITHOUT = {
    "umedpt_lightning": {"torch", "numpy", "lightning", "PIL"},
    "umedpt_lightning.cli.predict": {"lightning", "albumentations", "torchmetrics", "tiffslide", "nibabel"},
    "umedpt_lightning.cli.data": {"lightning"},
}
#: A server that is asked while a module is imported ends the process.
CODE = """
import importlib, json, sys, urllib.request
urllib.request.urlopen = urllib.request.OpenerDirector.open = lambda *a, **k: sys.exit("asked a server")
found = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    found[name] = sorted({module.partition(".")[0] for module in sys.modules})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """The packages that are there after each import, with albumentations free to look for a newer version."""
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    arguments = [sys.executable, "-c", CODE, *WITHOUT]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("module", WITHOUT)
def test_a_module_does_without_these_libraries_and_asks_no_server(module: str, imported: dict[str, list[str]]) -> None:
    assert not WITHOUT[module] & set(imported[module])


def test_albumentations_was_among_what_was_imported(imported: dict[str, list[str]]) -> None:
    assert "albumentations" in imported["umedpt_lightning.cli.data"], "else it could not have asked a server"
