"""Mutants: the package with one line broken, and the share of them that the tests find which are to find them.

`python -m benchmarks mutants` tries all that ``mutants.yaml`` lists and keeps the figure, `python -m benchmarks.mutants
WORD…` those with a word in their file or line.
"""

from __future__ import annotations

import compileall
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".yaml")
_PACKAGE = "umedpt_lightning"
#: What the tests need seconds to import; a process that is forked has it.
_LIBRARIES = (
    *("PIL.Image", "albumentations", "jsonargparse", "lightning.pytorch.cli", "matplotlib.figure", "nibabel"),
    *("pycocotools.cocoeval", "pydicom", "pytest", "rich.table", "scipy.stats", "segmentation_models_pytorch"),
    *("sklearn.linear_model", "sklearn.neighbors", "timm", "torchmetrics.classification", "torchvision"),
)
_say = partial(print, flush=True)
_SECONDS = 240  # for the tests of a mutant; one that hangs is found
#: What the exit codes of pytest say of a mutant.
_VERDICTS = {0: "SURVIVES", 1: "found", -signal.SIGKILL: "found, since it hangs,"}
# It warns that it cannot rewrite the assertions of plugins that are imported already.
_REWRITES = "pytest.PytestAssertRewriteWarning"
_OPTIONS = ("-qq", "-x", "--tb=short", "-m", "not slow", "-p", "no:cacheprovider", "-W", f"ignore::{_REWRITES}")


@dataclass(frozen=True)
class Mutant:
    """A file of the package in which `new` takes the place of `old`, and tests below ``tests/`` that are to find it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"

    def of(self, text: str) -> str:
        """The file's text with the broken line; a ValueError where it is not there any more, or several times."""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{LIST.name}: {self} is out of date, it stands {text.count(self.old)} times. Correct it.")
        return text.replace(self.old, self.new)


def listed(file: Path = LIST) -> list[Mutant]:
    """All mutants, in the order of the list."""
    found = []
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        tests = entry["tests"] if isinstance(entry["tests"], list) else [entry["tests"]]
        found += [Mutant(entry["file"], old, new, tuple(tests)) for old, new in entry["mutants"].items()]
    return found


def survivors(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Those that their tests do not find, told as they are tried.

    Raises:
        ValueError: A mutant is out of date.
        RuntimeError: Tests fail where nothing is broken, or cannot be run.
    """
    files = {mutant.file: (ROOT / "src" / _PACKAGE / mutant.file).read_text() for mutant in mutants}
    broken = [mutant.of(files[mutant.file]) for mutant in mutants]
    for library in _LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        compileall.compile_dir(source, quiet=1)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        _say(f"{len(mutants)} mutants. First all their tests, with nothing broken: {', '.join(tests)} …")
        if code := _run(source, tests, show=True):
            raise RuntimeError(f"The tests end with {code} where nothing is broken, so they can tell nothing.")
        found: dict[Mutant, str] = {}
        for number, (mutant, text) in enumerate(zip(mutants, broken, strict=True), start=1):
            file, start = source / _PACKAGE / mutant.file, time.monotonic()
            shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)  # it goes by the second of a change
            file.write_text(text)
            code = _run(source, mutant.tests)
            file.write_text(files[mutant.file])
            verdict = _VERDICTS.get(code, f"pytest ends with {code}")
            _say(f"[{number}/{len(mutants)}] {verdict} after {time.monotonic() - start:.0f} s: {mutant}")
            found[mutant] = verdict
    if wrong := [str(mutant) for mutant, verdict in found.items() if verdict not in _VERDICTS.values()]:
        raise RuntimeError(f"Neither found nor alive are {'; '.join(wrong)}. Correct them or their tests.")
    return [mutant for mutant, verdict in found.items() if verdict == _VERDICTS[0]]


def measure(quick: bool) -> dict[str, float]:
    """The share of all mutants that is found."""
    mutants = listed()
    return {"tests.mutants_killed": 1 - len(survivors(mutants)) / len(mutants)}


def _run(source: Path, tests: Sequence[str], show: bool = False) -> int:
    """Pytest's exit code, in a process of its own whose package is that of `source`."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(ROOT)
        sys.path.insert(0, str(source))
        os.environ["PYTHONPATH"] = str(source)  # of what the tests start
        sys.dont_write_bytecode = True
        if not show:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        code = 3
        try:
            import pytest

            code = int(pytest.main([*_OPTIONS, *(f"tests/{test}" for test in tests)]))
        finally:  # nothing that a fork inherits may go on after this
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + _SECONDS * (10 if show else 1)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if not found and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if found or os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)


if __name__ == "__main__":
    chosen = [m for m in listed() if not sys.argv[1:] or any(word in str(m) for word in sys.argv[1:])]
    if left := survivors(chosen):
        raise SystemExit(f"{len(left)} of {len(chosen)} survive: " + "\n".join(map(str, left)))
