"""Packed samples: the same as the reader's, from a disk and from a server, with a cache that keeps its bound."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import reader_samples
import yaml
from file_server import Served, serve
from test_readers import OF_IMAGES, equal

from umedpt_lightning.cli import main
from umedpt_lightning.data import readers
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.formats.faults import ServerLostError
from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers import Packed, Reader
from umedpt_lightning.data.shards import byte_cache, store
from umedpt_lightning.data.shards.pack import pack_reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import TaskSpec

SMALL = 700  # bytes of a shard, so that there are several


@pytest.fixture(autouse=True)
def quick_and_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WAITS", (0.0, 0.0))
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return readers.ManifestClasses(reader_samples.manifest(tmp_path), "train")


@pytest.fixture
def served(tmp_path: Path, reader: Reader) -> Iterator[Served]:
    pack_reader(reader, tmp_path / "shards", SMALL)
    with serve(tmp_path / "shards") as found:
        yield found


@pytest.mark.parametrize("cls", OF_IMAGES, ids=lambda cls: cls.__name__)
def test_samples_of_every_reader_are_the_same_when_they_are_packed(cls: type[Reader], tmp_path: Path) -> None:
    reader = reader_samples.make[cls](tmp_path, "train")
    assert pack_reader(reader, tmp_path / "shards", SMALL)
    packed = Packed(str(tmp_path / "shards"))
    assert packed.spec == reader.spec
    assert dict(packed.spec.cut) == dict(reader.spec.cut)
    assert len(packed) == len(reader)
    assert all(map(equal, packed, reader))
    for mine, theirs in zip(packed, reader, strict=True):
        assert mine.stored_size == theirs.stored_size
        np.testing.assert_array_equal(mine.stored_target, theirs.stored_target)
    for name in ("groups", "targets", "places"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(reader, name))


def test_what_is_packed_is_kept_and_what_is_cut_short_is_packed_again(tmp_path: Path, reader: Reader) -> None:
    folder = tmp_path / "shards"
    assert pack_reader(reader, folder, SMALL)
    shards = sorted(folder.glob("*.tar"))
    assert len(shards) > 1
    assert not pack_reader(reader, folder, SMALL)
    os.truncate(shards[1], 100)
    assert pack_reader(reader, folder, SMALL)
    reader_samples.image(Path(reader.name(0)), seed=99)
    assert pack_reader(reader, folder, SMALL)
    assert equal(Packed(str(folder))[0], reader[0])


def test_a_server_is_asked_for_a_sample_once_and_for_no_more_than_its_bytes(served: Served, reader: Reader) -> None:
    packed = Packed(served.address)
    served.answers.clear()
    for _ in range(2):
        assert all(map(equal, packed, reader))
    assert sorted(served.answers) == sorted(packed._index.length.tolist())
    again = Packed(served.address)  # another process, or a later run
    served.answers.clear()
    assert all(map(equal, again, reader))
    assert served.answers == []


def test_a_micro_batch_is_read_at_once(served: Served, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed(served.address, cache_gib=0)
    monkeypatch.setattr(store.ShardStore, "one", lambda *args: pytest.fail("one after the other"))
    data = MultiTaskDataset({"a": packed, "b": readers.Subset(packed, 1)}, dict.fromkeys("ab", Transform(None)))
    keys = [SampleKey("a", 2, 0), SampleKey("a", 0, 0)]
    items = data.__getitems__(keys)
    assert [item.sample.name for item in items] == [reader.name(2), reader.name(0)]
    items = data.__getitems__([SampleKey("b", 2, 0), SampleKey("b", 0, 0)])
    assert [item.sample.name for item in items] == [reader.name(3), reader.name(1)]


def test_workers_and_ranks_read_the_stream_of_the_reader(served: Served, reader: Reader) -> None:
    def stream(part: Reader, workers: int, state: dict[str, object]) -> list[tuple[list[str], float]]:
        tasks = {"t": TaskData(train=part, batch_size=4, augment="xray", size=16)}
        rounds = MultiTaskDataModule(tasks, num_workers=workers, steps_per_epoch=4).train_dataloader()
        rounds.load_state_dict(state)
        batches = [batch for one in rounds for batch in one]
        rounds.close()
        return [(batch.names, float(batch.images.double().sum())) for batch in batches]

    for state in ({"rounds": 0, "consumed": {}, "costs": {}}, {"rounds": 5, "consumed": {"t": 17}, "costs": {}}):
        assert stream(Packed(served.address, cache_gib=2e-6), 2, state) == stream(reader, 0, state)


def test_the_cache_keeps_its_bound_and_what_is_in_it_is_used(served: Served, reader: Reader) -> None:
    bound = 1024
    packed = Packed(served.address, cache_gib=bound / 2**30)
    for _ in range(3):
        served.answers.clear()
        assert all(map(equal, packed, reader))
    assert packed._cache is not None
    held = sum(file.stat().st_size for file in packed._cache.folder.iterdir())
    assert bound / 2 < held <= bound
    assert 0 < len(served.answers) < len(reader)


def test_a_full_disk_is_told_once_with_the_shard_and_the_mend(
    served: Served, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    packed = Packed(served.address)
    assert equal(packed[0], reader[0])
    monkeypatch.setattr(byte_cache.shutil, "disk_usage", lambda folder: usage(1000, 990, 10))
    with pytest.warns(UserWarning, match=r"00000\.tar: its samples are not kept.*UMEDPT_CACHE"):
        assert equal(packed[1], reader[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served.answers.clear()
        assert all(map(equal, packed, reader))
    assert len(served.answers) == len(reader) - 1  # the first is still read from the cache


@pytest.mark.parametrize("remote", [True, False])
def test_a_shard_that_is_truncated_missing_or_another_is_told_with_the_mend(
    remote: bool, served: Served, tmp_path: Path, reader: Reader
) -> None:
    packed = Packed(served.address if remote else str(tmp_path / "shards"), cache_gib=0)
    last = tmp_path / "shards" / packed._index.place(5).shard
    content = bytearray(last.read_bytes())
    packed.ahead([4, 5])
    assert equal(packed[5], reader[5])
    for index, whole in ((5, bytes(content[:10])), (4, bytes(content) + b"x")):
        last.write_bytes(whole)
        packed.ahead([4, 5])
        if index == 5:
            with pytest.raises(
                ValueError, match=rf"{last.name}: the shard is truncated.*\d bytes.*Copy the shard again"
            ):
                packed[5]
    packed.ahead([])
    start = packed._index.place(5).start
    content[start + 20] ^= 1
    last.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{last.name}: bytes .* which hold .*, are not those that were packed"):
        packed[5]
    last.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{last.name}: there is no such shard.*pack the samples again"):
        packed[5]


def test_a_lost_server_stops_a_run_that_would_skip_bad_samples(tmp_path: Path, reader: Reader) -> None:
    pack_reader(reader, tmp_path / "shards", SMALL)
    with serve(tmp_path / "shards") as served:
        packed = Packed(served.address, cache_gib=0)
    data = MultiTaskDataset({"t": packed}, {"t": Transform(None)}, on_bad_sample="skip")
    with pytest.raises(ValueError, match=r"Task 't': http.*00000\.tar: the server did not answer, 3 times.*ckpt_path"):
        data.__getitems__([SampleKey("t", 0, 0), SampleKey("t", 1, 0)])
    with pytest.raises(ServerLostError, match=r"index\.json"):
        Packed(served.address)


def test_a_server_without_ranges_is_told(tmp_path: Path, reader: Reader) -> None:
    pack_reader(reader, tmp_path / "shards", SMALL)
    with serve(tmp_path / "shards", ranges=False) as served, pytest.raises(ValueError, match="HTTP ranges"):
        Packed(served.address)[0]


def test_what_is_torn_in_the_cache_is_read_again(served: Served, reader: Reader) -> None:
    packed = Packed(served.address)
    assert all(map(equal, packed, reader))
    assert packed._cache is not None
    file = packed._cache.folder / "bytes"
    file.write_bytes(bytes(file.stat().st_size))
    assert all(map(equal, packed, reader))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "index.json").write_text("{"), "not the index of packed samples"),
        (lambda folder: (folder / "samples.npz").write_bytes(b"PK"), "not the index of packed samples"),
        (lambda folder: os.truncate(folder / "samples.npz", 300), "not the index of packed samples"),
        (lambda folder: (folder / "index.json").unlink(), "umedpt data pack"),
    ],
)
def test_an_index_that_cannot_be_used_is_told(damage, match: str, tmp_path: Path, reader: Reader) -> None:  # type: ignore[no-untyped-def]
    pack_reader(reader, tmp_path / "shards", SMALL)
    damage(tmp_path / "shards")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        Packed(str(tmp_path / "shards"))


def test_a_label_kind_that_is_not_known_is_told(tmp_path: Path, reader: Reader) -> None:
    pack_reader(reader, tmp_path / "shards", SMALL)
    file = tmp_path / "shards" / "index.json"
    file.write_text(file.read_text().replace("ClassSpec", "WhatSpec"))
    with pytest.raises(ValueError, match=r"label kind WhatSpec.*`classes`"):
        Packed(str(tmp_path / "shards"))
    assert TaskSpec.__subclasses__()


@pytest.mark.parametrize(
    ("arguments", "match"), [({"address": "s9://x"}, "cannot be opened"), ({"address": "x", "cache_gib": -1}, "size")]
)
def test_what_cannot_be_is_told(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Packed(**arguments)  # type: ignore[arg-type]


@dataclass
class Written:
    folder: Path
    lines: str


def test_the_command_packs_bags_too_and_its_tasks_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = reader_samples.manifest(tmp_path / "data")
    one = {"table": {"file": str(table), "group": "patient"}, "split": "train", "quantities": {"z": "mm"}}
    reader = {
        "class_path": "ManifestMasks",
        "init_args": {"table": str(table), "split": "train", "classes": ["a", "b"]},
    }
    patients = {**one, "label": "mass"}
    del patients["quantities"]
    bags = {"of": "patient", "reader": {"class_path": "ManifestClasses", "init_args": patients}}
    tasks = {
        "masks": {"train": reader, "size": 16},
        "bags": {"train": {"class_path": "Bags", "init_args": bags}, "size": 16},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"tasks": tasks}}))
    out = tmp_path / "out"
    arguments = ["data", "pack", "--config", str(tmp_path / "config.yaml"), "--out", str(out), "--workers", "0"]
    main(arguments)
    assert "masks train: 6 samples" in capsys.readouterr().out
    main(arguments)
    assert capsys.readouterr().out.count("as before") == 2
    shutil.rmtree(tmp_path / "data" / "images")  # nothing else is read from here on
    with serve(out) as served:
        main(["data", "check", "--config", str(out / "tasks.yaml"), "--root", served.address, "--workers", "1"])
    assert "0 problems" in capsys.readouterr().out
    assert yaml.safe_load((out / "tasks.yaml").read_text())["data"]["tasks"]["masks"]["size"] == 16


def _folders(tmp_path: Path) -> list[str]:
    """Images of a task in a folder that is called as that of its shards would be, and the words that pack them."""
    for i in range(4):
        reader_samples.image(tmp_path / "data" / "a" / "train" / "xy"[i % 2] / f"{i}.png", seed=i)
    reader = {"class_path": "ClassFolders", "init_args": {"folder": "${root}/a/train"}}
    config = {"root": str(tmp_path / "data"), "data": {"tasks": {"a": {"train": reader}}}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(config))
    return ["data", "pack", "--config", str(tmp_path / "tasks.yaml"), "--workers", "1", "--out"]


def test_nothing_is_removed_but_shards(tmp_path: Path) -> None:
    words = _folders(tmp_path)
    with pytest.raises(SystemExit, match=r"a/train: there is something else than shards, \['x', 'y'\].*--out"):
        main([*words, str(tmp_path / "data")])
    assert len(list((tmp_path / "data").rglob("*.png"))) == 4
    described = (tmp_path / "tasks.yaml").read_text()
    with pytest.raises(SystemExit, match=r"tasks\.yaml: it would be written over.*--out"):
        main([*words, str(tmp_path)])
    assert (tmp_path / "tasks.yaml").read_text() == described
    main([*words, str(tmp_path / "out")])
    words[words.index("--config") + 1] = str(tmp_path / "out" / "tasks.yaml")
    with pytest.raises(SystemExit, match=r"tasks\.yaml: it would be written over.*--out"):
        main([*words, str(tmp_path / "out")])
    assert len(Packed(str(tmp_path / "out" / "a" / "train"))) == 4


def test_tasks_that_are_packed_one_by_one_are_all_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _folders(tmp_path)
    config = yaml.safe_load((tmp_path / "tasks.yaml").read_text())
    config["data"]["tasks"]["b"] = config["data"]["tasks"]["a"]
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(config))
    for name in "ba":
        main([*words, str(tmp_path / "out"), "--tasks", name])
    described = yaml.safe_load((tmp_path / "out" / "tasks.yaml").read_text())["data"]["tasks"]
    assert described.keys() == {"a", "b"}
    assert described["b"]["train"]["init_args"]["address"] == "${root}/b/train"


@pytest.mark.parametrize("name", ["100%", "s3:x"])
def test_the_folder_of_shards_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = _folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    main([*words, name])
    assert len(Packed(str(tmp_path / name / "a" / "train"))) == 4


def test_what_cannot_be_packed_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _folders(tmp_path)
    (tmp_path / "data" / "a" / "train" / "x" / "2.png").write_bytes(b"no")
    with pytest.raises(SystemExit, match=r"^umedpt: error: data\.tasks\.a\.train: .*2\.png: not an image") as end:
        main([*words, str(tmp_path / "out")])
    assert "Traceback" not in str(end.value)
    with pytest.raises(SystemExit):
        main([*words, "s3://bucket/x"])
    assert "is an address" in capsys.readouterr().err


def test_a_server_that_is_silent_is_not_waited_for(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_reader(reader, tmp_path / "shards", SMALL)
    monkeypatch.setattr(store, "_SILENCE", 0.05)
    with serve(tmp_path / "shards", latency=2.0) as served, pytest.raises(ServerLostError, match=r"3 times in \d s"):
        Packed(served.address)
