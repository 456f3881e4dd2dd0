"""Decoded samples, kept once for all processes of a machine."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader_samples
from builders import MemoryReader

from benchmarks.processes import in_fresh_process
from umedpt_lightning.data import readers
from umedpt_lightning.data.cache import cache_folders, cached
from umedpt_lightning.data.cache import identity as identity_module
from umedpt_lightning.data.cache.cache_folders import SharedFolder, sweep
from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.sample_file import pack, unpack
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.formats import images
from umedpt_lightning.data.formats.masks import read_mask
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.labels import masks
from umedpt_lightning.types import BoxArrays, ClassSpec, Sample

ROOM = 2**40


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both places in the test's own folder."""
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "disk"))
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(cache_folders, "_MEMORY", tmp_path / "memory")
    # and room in both, however full this machine is
    room = type(shutil.disk_usage(tmp_path))(total=ROOM, used=0, free=ROOM)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(cached, "_memory", lambda: (ROOM, ROOM))
    return tmp_path


class Counting(Reader):
    """Says in a file what it decodes, so that all processes are counted."""

    def __init__(self, folder: Path, length: int = 6, value: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.length, self.value = folder, length, value
        self.log = os.fspath(folder) + ".log"  # beside it, and there only when all identities are known
        self.spec = ClassSpec(channels=1, classes=("a", "b"))
        self.file = folder / "source"
        if not self.file.exists():
            self.file.touch()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = self._at(index)
        with open(self.log + "s", "a") as stream:
            stream.write(f"{index}\n")
        return Sample(np.full((8, 8, 1), index + self.value, np.uint8), index % 2, f"s{index}")

    def decoded(self) -> list[int]:
        return sorted(map(int, Path(self.log + "s").read_text().split()))


def equal(a: Sample, b: Sample) -> bool:
    def arrays(sample: Sample) -> list[Any]:
        target = repr(sample.target) if isinstance(sample.target, dict) else sample.target
        return [sample.image, *(target if isinstance(target, BoxArrays) else [np.asarray(target)])]

    return (
        (a.name, a.stored_size, type(a.target)) == (b.name, b.stored_size, type(b.target))
        and all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(arrays(a), arrays(b), strict=True))
        and all(np.asarray(x).dtype == np.asarray(y).dtype for x, y in zip(arrays(a), arrays(b), strict=True))
    )


KINDS = [
    readers.ClassFolders,
    readers.CocoBoxes,
    readers.ManifestLabels,
    readers.ManifestMasks,
    readers.ManifestNumbers,
    readers.SlideBoxes,
    readers.VolumeMasks,
]


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_kept_samples_are_those_of_the_reader(kind: type[Reader], place: Any, tmp_path: Path) -> None:
    reader = reader_samples.make[kind](tmp_path / "data", "train")
    kept = CachedReader(reader, place)
    assert (kept.spec, len(kept), kept.name(0)) == (reader.spec, len(reader), reader.name(0))
    for _ in range(2):
        assert all(equal(kept[i], reader[i]) for i in range(-1, len(reader)))
    sample = kept[0]
    sample.image[:] = 1
    assert equal(kept[0], reader[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "target",
    [
        3,
        np.array([1, np.nan], np.float32),
        0.5,
        np.arange(-1, 34, dtype=np.int16).reshape(5, 7),
        {"points": np.arange(6.0).reshape(3, 2), "side": "left", "age": None, "scores": [1, 0.5]},
        BoxArrays(np.array([[0, 1, 2, 3.5]], np.float32), np.array([1])),
        BoxArrays(np.empty((0, 4), np.float32), np.empty(0, np.int64)),
    ],
    ids=["index", "vector", "number", "mask", "mapping", "boxes", "no boxes"],
)
def test_a_file_holds_all_of_a_sample(dtype: type, target: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 200, (5, 7, 3)).astype(dtype)
    sample = Sample(image[:, ::-1], target, "ä\n[1]", (50, 70))
    content = b"".join(pack(sample))
    (tmp_path / "x").write_bytes(content)
    found = unpack(tmp_path / "x")
    assert found is not None
    assert equal(found, sample)
    assert found.image.flags.writeable
    for length in (0, 10, 100, len(content) // 2):
        (tmp_path / "x").write_bytes(content[:length])
        assert unpack(tmp_path / "x") is None
    assert unpack(tmp_path / "none") is None


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_each_sample_is_decoded_once_for_all_workers_and_ranks(place: Any, tmp_path: Path) -> None:
    reader = Counting(tmp_path / "data", 24)
    ranks = [
        MultiTaskDataModule({"t": TaskData(train=reader, val=reader, batch_size=4, cache=place)}, num_workers=2)
        for _ in range(2)
    ]
    for data in ranks:
        loader = data.train_dataloader()
        for _ in range(3):
            for batches in loader:
                for batch in batches:
                    values = batch.images.flatten(1)
                    assert [f"s{int(value) - 1}" for value in values[:, 0]] == batch.names
                    assert (values == values[:, :1]).all()
    # two workers may be at one sample at the same time, where a pass ends and the next begins
    assert set(reader.decoded()) == set(range(24))
    assert len(reader.decoded()) <= 24 + 4
    before = len(reader.decoded())
    assert sum(len(batch) for batch in ranks[0].val_dataloader()) == 24
    assert len(reader.decoded()) == before


def test_ranks_share_one_folder_and_other_options_do_not(tmp_path: Path) -> None:
    first, second = CachedReader(Counting(tmp_path / "a"), "ram"), CachedReader(Counting(tmp_path / "a"), "ram")
    first[0]
    assert equal(second[0], first[0])
    assert Counting(tmp_path / "a").decoded() == [0]
    assert CachedReader(Counting(tmp_path / "a", value=2), "ram")[0].image[0, 0, 0] == 2
    assert CachedReader(Counting(tmp_path / "b", value=3), "ram")[0].image[0, 0, 0] == 3


def test_identity_is_the_same_in_another_process(tmp_path: Path) -> None:
    table = reader_samples.manifest(tmp_path)
    here = identity(readers.ManifestMasks(table, "train", {"a": 0, "b": 1}))
    assert in_fresh_process(_identity, table) == here


def _identity(table: Path) -> str:
    return identity(readers.ManifestMasks(table, "train", {"a": 0, "b": 1}))


def test_what_has_changed_is_read_anew(tmp_path: Path) -> None:
    def kept() -> CachedReader:
        return CachedReader(readers.ManifestMasks(table, "train", ["background", "nodule"]), "disk")

    table = reader_samples.manifest(tmp_path)
    before = kept()[1]
    reader_samples.image(tmp_path / "images" / "train1.png", 99)
    assert not np.array_equal(kept()[1].image, before.image)
    reader_samples.mask(tmp_path / "masks" / "train1.png", (1, 0))
    assert not np.array_equal(kept()[1].target, before.target)
    table.write_text(table.read_text().replace("masks/train1.png", "masks/train2.png"))
    np.testing.assert_array_equal(kept()[1].target, read_mask(tmp_path / "masks" / "train2.png"))


@pytest.mark.parametrize("name", ["v.img", "v.mhd"])
def test_what_is_read_with_a_volume_counts(name: str, tmp_path: Path) -> None:
    beside = tmp_path / ("v.hdr" if name == "v.img" else "v.raw")
    for file in (tmp_path / name, beside, tmp_path / "v.txt"):
        file.write_bytes(b"1")
    reader: Any = MemoryReader("class")
    reader.path = tmp_path / name
    given = InputFile(name, name, "nifti", str(reader.path))
    before = identity(reader), given.stamp
    (tmp_path / "v.txt").write_bytes(b"22")
    assert (identity(reader), given.stamp) == before
    beside.write_bytes(b"22")
    after = identity(reader), given.stamp
    assert all(new != old for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize("kind", [readers.VolumeMasks, readers.SlideMasks, readers.MedMNIST, readers.Subset])
def test_every_file_below_a_reader_counts(kind: type[Reader], tmp_path: Path) -> None:
    reader = reader_samples.make[kind](tmp_path / "data", "train")
    before = identity(reader)
    assert identity(reader) == before
    changed = 0
    for path in sorted((tmp_path / "data").rglob("*")):
        # tables and annotations are in the reader by now; those of other parts are none of its business
        if path.suffix in (".nii", ".tif", ".npz"):
            os.utime(path, (1, 1))
            changed += identity(reader) != before
            before = identity(reader)
    assert changed >= (4 if kind is readers.VolumeMasks else 2 if kind is readers.SlideMasks else 1)


def test_the_code_that_reads_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    plain = identity_module.fingerprint
    monkeypatch.setattr(identity_module, "fingerprint", lambda files: seen.extend(files) or plain(files))
    identity(Counting(tmp_path / "a"))
    code = {Path(module.__file__) for module in (images, readers, masks)}
    assert code | {Path(__file__), tmp_path / "a" / "source"} <= set(seen)


def test_the_versions_of_what_decodes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, before = Counting(tmp_path / "a"), identity(Counting(tmp_path / "a"))
    plain = identity_module.version
    for name in ("pillow", "numpy", "opencv-python-headless", "pydicom", "nibabel", "tifffile"):
        monkeypatch.setattr(identity_module, "version", lambda n, name=name: "0" if n == name else plain(n))
        assert identity(reader) != before
    monkeypatch.setattr(identity_module, "version", plain)
    assert identity(reader) == before


def test_the_identity_of_code_changes_with_its_files_classes_and_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    for name in ("__init__", "model", "blocks/a", "blocks/b", "cli/a"):
        (package / name).parent.mkdir(exist_ok=True, parents=True)
        (package / f"{name}.py").write_text(f"# {name}")
    monkeypatch.setattr(identity_module.umedpt_lightning, "__file__", str(package / "__init__.py"))
    own = tmp_path / "own_block.py"
    own.write_text("class Block: ...")
    monkeypatch.syspath_prepend(tmp_path)
    block = importlib.import_module("own_block").Block

    def now(*libraries: str) -> str:
        return identity_module.code_identity(("blocks", "model.py"), libraries or ("numpy", "no-such-thing"), {block})

    seen = [now()]
    os.utime(package / "model.py", (1, 1))  # installed again, with the same content
    (package / "cli" / "a.py").write_text("# of no weight")
    assert now() == seen[0]
    for file in (package / "model.py", package / "blocks" / "b.py", own):
        file.write_text(file.read_text() + "\n# changed")
        seen.append(now())
    seen.append(now("pillow"))
    assert len(set(seen)) == len(seen)


def test_the_order_of_sets_does_not_matter(tmp_path: Path) -> None:
    a, b = Counting(tmp_path / "a"), Counting(tmp_path / "a")
    a.extra, b.extra = {"x", "y", 1}, {1, "y", "x"}
    assert identity(a) == identity(b)
    b.extra = {"x"}
    assert identity(a) != identity(b)


def test_a_reader_that_cannot_be_pickled_is_told(tmp_path: Path) -> None:
    reader = Counting(tmp_path / "a")
    reader.extra = lambda: None
    with pytest.raises(ValueError, match=r"Counting: samples cannot be cached.*cache: none"):
        CachedReader(reader, "ram")


def test_errors_are_not_kept(tmp_path: Path) -> None:
    for i in range(2):
        reader_samples.image(tmp_path / "data" / "a" / f"{i}.png", i)
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"broken")
    kept = CachedReader(readers.ClassFolders(tmp_path / "data"), "disk")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1\.png"):
            kept[1]
    assert kept[0].target == 0


def test_a_full_disk_is_told_once_and_does_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Counting(tmp_path / "data")
    kept, other = CachedReader(reader, "ram"), CachedReader(reader, "ram")
    kept[0]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 5))
    with pytest.warns(UserWarning, match="cache: ram keeps no more samples .* full to the margin of 25%"):
        kept[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [int(each[i].image[0, 0, 0]) for each in (kept, other) for i in range(6)] == [1, 2, 3, 4, 5, 6] * 2
    assert reader.decoded().count(0) == 1  # what is there is used
    assert reader.decoded().count(1) == 3


def test_memory_that_is_promised_but_not_there_is_full_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {place: CachedReader(Counting(tmp_path / place), place) for place in ("ram", "disk")}
    monkeypatch.setattr(cached, "_memory", lambda: (ROOM, ROOM // 20))
    with pytest.warns(UserWarning, match="cache: ram keeps no more"):
        kept["ram"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept["disk"][0]


def test_what_memory_there_is_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    total, available = cached._memory()
    assert 2**28 < available <= total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_failure_to_write_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = CachedReader(Counting(tmp_path / "data"), "disk")
    monkeypatch.setattr(cached, "atomic_write", full)
    with pytest.warns(UserWarning, match="cache: disk keeps no more .*No space left"):
        assert kept[0].name == "s0"


def _read_all(kept: CachedReader) -> list[int]:
    return [int(kept[i].image.sum()) for i in range(len(kept))]


def test_many_can_write_at_once(tmp_path: Path) -> None:
    kept = CachedReader(Counting(tmp_path / "data", 50), "disk")
    with get_context("fork").Pool(4) as pool:
        sums = pool.map(_read_all, [kept] * 8)
    assert sums == [[64 * (i + 1) for i in range(50)]] * 8
    files = [path.name for path in kept._folder.path.rglob("*") if path.is_file()]
    assert sorted(files) == sorted([*map(str, range(50)), "lock"])  # no scratch files


def test_memory_is_given_back_with_the_last_that_uses_it(tmp_path: Path) -> None:
    root = tmp_path / "memory" / f"umedpt-{os.getuid()}"
    first, second = CachedReader(Counting(tmp_path / "a"), "ram"), CachedReader(Counting(tmp_path / "a"), "ram")
    copy = pickle.loads(pickle.dumps(first))  # as a spawned worker has it
    first[0]
    del first
    assert len(list(root.iterdir())) == 1
    del second
    assert len(list(root.iterdir())) == 1
    assert copy[0].name == "s0"
    del copy
    assert list(root.iterdir()) == []


def test_the_end_of_a_worker_takes_nothing_away(tmp_path: Path) -> None:
    kept = CachedReader(Counting(tmp_path / "a"), "ram")
    for _ in range(2):
        with get_context("fork").Pool(1) as pool:
            pool.map(_read_all, [kept])
    assert _read_all(kept)
    assert len(kept._reader.decoded()) == 6


HOLDER = """
import sys, time
from pathlib import Path
from umedpt_lightning.data.cache import cache_folders
cache_folders._MEMORY = Path(sys.argv[1])
folder = cache_folders.SharedFolder("ram", "x")
(folder.path / "0").write_text("sample")
print("ready", flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "raise ValueError", "time.sleep(60)"])
def test_no_end_of_a_run_leaves_memory_behind(end: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER.format(end=end), str(tmp_path / "memory")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    root = tmp_path / "memory" / f"umedpt-{os.getuid()}"
    if "sleep" in end:
        sweep(root, 0)
        assert (root / "x" / "0").exists()  # it is in use
        process.kill()
    process.wait()
    process.stdout.close()
    if "sleep" in end:  # nothing can be done by who is killed; the next run does it
        assert (root / "x" / "0").exists()
        SharedFolder("ram", "y")
    assert not (root / "x").exists()


def test_on_disk_samples_stay_until_nobody_has_used_them_for_long(tmp_path: Path) -> None:
    reader = Counting(tmp_path / "data")
    kept = CachedReader(reader, "disk")
    kept[0]
    folder = kept._folder.path
    del kept
    again = CachedReader(reader, "disk")
    assert again[0].name == "s0"
    assert reader.decoded() == [0]
    del again
    long_ago = time.time() - 31 * 24 * 3600
    os.utime(folder / "lock", (long_ago, long_ago))
    SharedFolder("disk", "other")
    assert not folder.exists()


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    root = tmp_path / "memory" / f"umedpt-{os.getuid()}"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(ValueError, match=r"a folder that only you can use.*cache: disk"):
        SharedFolder("ram", "x")


def test_a_system_without_files_in_memory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_folders, "_MEMORY", tmp_path / "none")
    with pytest.raises(ValueError, match=r"which this system has not. Write `cache: disk`"):
        SharedFolder("ram", "x")
