"""The wheel, in an environment that has no more than prediction needs, loads an exported folder and predicts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of
from packaging.requirements import Requirement

from umedpt_lightning.model import MultiTaskModel

ROOT = Path(__file__).parents[2]
#: What docs/export.md promises to be enough.
ENOUGH = (
    *("torch", "torchvision", "timm", "segmentation-models-pytorch", "safetensors", "huggingface_hub"),
    "lazy_loader",  # names of the package on first use
)
ABSENT = (
    "lightning",
    "pytorch_lightning",
    "wandb",
    "albumentations",
    "torchmetrics",
    "cv2",
    "jsonargparse",
    "pycocotools",
)
PREDICT = """
import importlib.util, json, sys
import numpy as np
from umedpt_lightning.model import MultiTaskModel

folder, absent = sys.argv[1:]
assert not [name for name in json.loads(absent) if importlib.util.find_spec(name)]
model = MultiTaskModel.from_pretrained(folder)
image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
found = {}
for task in model.tasks:
    one = model.predict([image], task)[0]
    found[task] = one.scores.tolist() if hasattr(one, "scores") else one.tolist()
import umedpt_lightning
print(json.dumps({"at": umedpt_lightning.__file__, "found": found}))
"""


def needed(names: tuple[str, ...]) -> Iterator[str]:
    """Distributions and all that they need, by their names."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = [Requirement(text) for text in distribution(name).requires or []]
        except PackageNotFoundError:
            continue  # of another platform
        yield name
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(source / "dist"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and links to what `ENOUGH` needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    interpreter = folder / "bin" / "python"
    packages = Path(
        subprocess.check_output(
            [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    for name in needed(ENOUGH):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
    install = ["-m", "pip", "--python", str(interpreter), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    return interpreter


@pytest.mark.slow
def test_an_exported_folder_predicts_with_nothing_of_training_installed(python: Path, tmp_path: Path) -> None:
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS}
    model = MultiTaskModel(small_encoder(), specs, None, SMALL_PIXELS, SMALL_DETECTION)
    model.save_pretrained(tmp_path / "model")
    command = [python, "-I", "-c", PREDICT, str(tmp_path / "model"), json.dumps(ABSENT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert Path(answer["at"]).is_relative_to(python.parents[1]), "the wheel's, not this tree's"
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    for task, found in answer["found"].items():
        here = model.predict([image], task)[0]
        here = here.scores if hasattr(here, "scores") else here
        np.testing.assert_allclose(np.array(found), here.numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_wheel_has_all_files_and_its_command_starts(python: Path, wheel: Path) -> None:
    listed = subprocess.check_output([sys.executable, "-m", "zipfile", "--list", str(wheel)], text=True)
    inside = {line.split()[0] for line in listed.splitlines()[1:]}
    package = ROOT / "src" / "umedpt_lightning"
    files = [file for pattern in ("*.py", "*.yaml", "py.typed") for file in package.rglob(pattern)]
    assert {file.relative_to(package.parent).as_posix() for file in files} <= inside
    assert not [name for name in inside if name.startswith(("tests", "docs", "benchmarks"))]
    umedpt = python.with_name("umedpt")
    assert "commands:" in subprocess.check_output([umedpt, "--help"], text=True)
