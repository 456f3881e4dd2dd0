"""Names and downloads of MedMNIST, with a table like that of its package and without the network."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from reader_samples import medmnist

from umedpt_lightning.data.readers import MedMNIST, MedMNISTMultilabel
from umedpt_lightning.data.readers import medmnist as medmnist_sets

NAMES = {"redmnist": ["rash", "burn", "none of these"], "manymnist": ["a", "b", "c", "d", "e"]}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `medmnist` whose import fails, since only its table is to be read, and the file that it points to."""
    source = medmnist(tmp_path / "server" / "any.npz")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(source.parent)))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    url = f"http://127.0.0.1:{server.server_port}/any.npz"
    table = {
        name: {"label": {str(i): label for i, label in enumerate(labels)}}
        | {f"url{size}": url for size in ("", "_64")}
        | {f"MD5{size}": hashlib.md5(source.read_bytes()).hexdigest() for size in ("", "_64")}
        for name, labels in NAMES.items()
    }
    (tmp_path / "site" / "medmnist").mkdir(parents=True)
    (tmp_path / "site" / "medmnist" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "site" / "medmnist" / "info.py").write_text(f"import os\nHOME = os.sep\nINFO = {table!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "medmnist", raising=False)  # the real one, where another test has imported it
    yield source
    server.shutdown()
    server.server_close()


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medmnist_sets, "find_spec", lambda name: None)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("size", ["", "_64", "_128", "_224"])
def test_names_come_from_the_package_for_files_of_any_size(tmp_path: Path, size: str) -> None:
    reader = MedMNIST(medmnist(tmp_path / f"redmnist{size}.npz"), "train")
    assert reader.spec.classes == ("rash", "burn", "none of these")
    several = MedMNISTMultilabel(medmnist(tmp_path / f"manymnist{size}.npz", labels=5), "train")
    assert several.spec.labels == ("a", "b", "c", "d", "e")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["other", "bluemnist", "manymnist", "redmnist_old"])
def test_files_that_the_package_does_not_know_have_numbers(tmp_path: Path, name: str) -> None:
    assert MedMNIST(medmnist(tmp_path / f"{name}.npz"), "train").spec.classes == ("0", "1", "2")


@pytest.mark.usefixtures("package")
def test_given_names_come_first(tmp_path: Path) -> None:
    assert MedMNIST(medmnist(tmp_path / "redmnist.npz"), "train", ["x", "y", "z"]).spec.classes == ("x", "y", "z")


@pytest.mark.usefixtures("without_package")
def test_names_are_numbers_without_the_package(tmp_path: Path) -> None:
    assert MedMNIST(medmnist(tmp_path / "redmnist.npz"), "train").spec.classes == ("0", "1", "2")


def test_a_file_is_fetched_once_and_only_when_asked_for(package: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "redmnist_64.npz"
    with pytest.raises(FileNotFoundError):
        MedMNIST(file, "train")
    assert len(MedMNIST(file, "train", download=True)) == 6
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    package.unlink()
    assert len(MedMNIST(file, "val", download=True)) == 4


def test_failed_downloads_leave_nothing_and_say_the_mend(package: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "redmnist.npz"
    package.write_bytes(b"cut")
    with pytest.raises(OSError, match=r"redmnist\.npz: it could not be fetched from http:.*MD5 [0-9a-f]{32}\), put it"):
        MedMNIST(file, "train", download=True)
    package.unlink()
    with pytest.raises(OSError, match="could not be fetched"):
        MedMNISTMultilabel(file, "train", download=True)
    assert list(file.parent.iterdir()) == []


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["bluemnist.npz", "redmnist_128.npz", "redmnist.zip"])
def test_unknown_sets_and_sizes_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{name}: MedMNIST has no file of that name, but \['redmnist', 'manymnist'\]"
    ):
        MedMNIST(tmp_path / name, "train", download=True)


@pytest.mark.usefixtures("without_package")
def test_a_download_without_the_package_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install \"umedpt-lightning\[medmnist\]\""):
        MedMNIST(tmp_path / "pathmnist.npz", "train", download=True)


@pytest.mark.skipif(importlib.util.find_spec("medmnist") is None, reason="medmnist is not installed")
def test_the_table_of_the_real_package_can_be_read(shared_data: Path) -> None:
    assert medmnist_sets.label_names(Path("octmnist_224.npz"), 4) is not None
    assert MedMNIST(shared_data / "pneumoniamnist.npz", "val").spec.classes == ("normal", "pneumonia")
