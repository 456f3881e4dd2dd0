"""Embeddings of files, from the command line, whatever comes in between."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_encoder, spec_of
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.inference import embed as embedding
from umedpt_lightning.inference import store
from umedpt_lightning.inference.dataset import InputDataset, Wanted
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import Sample

parquet: Any = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks in colour and grey."""
    folder = tmp_path_factory.mktemp("models") / "first"
    specs = {"colour": spec_of("class"), "grey": spec_of("class", channels=1)}
    MultiTaskModel(small_encoder(), specs, sizes={"colour": (48, 40)}).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of eleven, of several sizes."""
    folder, generator = tmp_path / "images", np.random.default_rng(0)
    for i in range(11):
        (folder / f"part{i % 2}").mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (30 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"part{i % 2}" / f"{i}.png")
    return folder


def embed(model: Path, inputs: Sequence[Path] | Path, out: Path, *more: str, task: str = "colour") -> None:
    given = [str(path) for path in ([inputs] if isinstance(inputs, Path) else inputs)]
    options = ["--out", str(out), "--task", task, "--batch_size", "4", "--device", "cpu"]
    main(["embed", "--model", str(model), "--inputs", *given, *options, "--num_workers", "0", *more])


def rows(file: Path) -> tuple[list[str], NDArray[np.float32]]:
    table = parquet.read_table(file)
    assert [str(kind) for kind in table.schema.types[:2]] == ["string", "string"]
    return table.column("id").to_pylist(), np.array(table.column("vector").to_pylist(), np.float32)


def expected(model: Path, files: Sequence[Path], task: str) -> NDArray[np.float32]:
    """One by one, read and resized by what training reads and resizes with."""
    net = MultiTaskModel.from_pretrained(model)
    found = []
    for file in files:
        image = read_image(file, net.task(task).spec.channels)
        image = Transform(net.sizes.get(task))(Sample(image, 0, file.name), 0).image
        with torch.no_grad():
            found.append(net.embed(torch.from_numpy(image.transpose(2, 0, 1)[None]), task)[0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("workers", [0, 2])
def test_vectors_are_those_of_the_model(model: Path, images: Path, tmp_path: Path, workers: int) -> None:
    embed(model, images, tmp_path / "e.parquet", "--num_workers", str(workers))
    ids, vectors = rows(tmp_path / "e.parquet")
    assert ids == [f"part{i % 2}/{i}.png" for i in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9)]
    assert np.abs(vectors - expected(model, [images / name for name in ids], "colour")).max() <= 1e-5


@pytest.mark.parametrize("task", ["colour", pytest.param("grey", marks=pytest.mark.slow)])
def test_vectors_of_real_images_are_those_of_the_model(
    model: Path, shared_data: Path, tmp_path: Path, task: str
) -> None:
    files = (
        sorted((shared_data / "bccd" / "images").iterdir())[:3]
        + sorted((shared_data / "msd_lung_ct" / "images").iterdir())[:5]
    )
    folder = tmp_path / "xray"
    folder.mkdir()
    for i, image in enumerate(np.load(shared_data / "pneumoniamnist.npz")["test_images"][:6]):
        Image.fromarray(image).save(folder / f"{i}.png")
    embed(model, [*files, folder], tmp_path / "e.parquet", task=task)
    ids, vectors = rows(tmp_path / "e.parquet")
    assert ids == [*(file.name for file in files), *(f"{i}.png" for i in range(6))]
    assert np.abs(vectors - expected(model, [*files, *sorted(folder.iterdir())], task)).max() <= 1e-5


def test_parquet_and_npy_agree_and_groups_are_those_of_a_table(model: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    names = [f"images/part{i % 2}/{i}.png" for i in range(5)]
    table.write_text("\n".join(["path,name,patient", *(f"{name},n{i},p{i % 2}" for i, name in enumerate(names))]))
    columns = ["--columns.id", "name", "--columns.group", "patient"]
    embed(model, table, tmp_path / "e.parquet", *columns)
    embed(model, table, tmp_path / "e.npy", *columns)
    ids, vectors = rows(tmp_path / "e.parquet")
    loaded = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, vectors)
    with (tmp_path / "e.npy.csv").open(newline="") as stream:
        named = list(csv.reader(stream))
    assert named == [["id", "group"], *([f"n{i}", f"p{i % 2}"] for i in range(5))]
    assert ids == [f"n{i}" for i in range(5)]
    assert parquet.read_table(tmp_path / "e.parquet").column("group").to_pylist() == [f"p{i % 2}" for i in range(5)]


def test_scales_are_the_means_of_all_maps(model: Path, images: Path, tmp_path: Path) -> None:
    embed(model, images, tmp_path / "e.parquet", "--scales")
    ids, vectors = rows(tmp_path / "e.parquet")
    net = MultiTaskModel.from_pretrained(model)
    image = Transform((48, 40))(Sample(read_image(images / ids[0]), 0, ""), 0).image
    with torch.no_grad():
        maps = net.pyramid(torch.from_numpy(image.transpose(2, 0, 1)[None]), "colour").maps
    # 40 columns are padded to 64: of the last map, with a stride of 32, two columns hold image, of the first ten
    shown = zip(maps, (2, 4, 8, 16, 32), strict=True)
    means = [m[0, :, : -(-48 // s), : -(-40 // s)].mean(dim=(1, 2)) for m, s in shown]
    assert np.allclose(vectors[0], torch.cat(means).numpy(), atol=1e-5)
    assert vectors.shape[1] == sum(net.encoder.channels)


def test_bf16_is_near(model: Path, images: Path, tmp_path: Path) -> None:
    for precision in ("32", "bf16"):
        embed(model, images, tmp_path / f"{precision}.parquet", "--precision", precision)
    exact, near = (rows(tmp_path / f"{precision}.parquet")[1] for precision in ("32", "bf16"))
    assert 0 < np.abs(exact - near).max() < 0.2


def _embed_and_die(*arguments: str) -> None:
    """In this process, which ends when the third part is to be written."""
    add = store.Store.add

    def add_or_die(self: Any, start: int, *rest: Any) -> None:
        if start == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, start, *rest)

    embedding._MOST_ROWS = 4
    store.Store.add = add_or_die  # type: ignore[method-assign]
    main(["embed", *arguments])


def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    embed(model, images, whole)
    options = ["--task", "colour", "--batch_size", "4", "--device", "cpu", "--num_workers", "1"]
    child = os.fork()
    if not child:
        try:
            _embed_and_die("--model", str(model), "--inputs", str(images), *options, "--out", str(killed))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not killed.exists()
    assert len(list((tmp_path / "killed.parquet.parts").glob("0*.npz"))) == 2
    read: list[int] = []
    reading = InputDataset.image

    def noted(self: InputDataset, wanted: Wanted, task: int) -> Any:
        read.append(wanted.file)
        return reading(self, wanted, task)

    monkeypatch.setattr(InputDataset, "image", noted)
    embed(model, images, killed)
    assert read == [8, 9, 10]  # nothing is computed again
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed.parquet", "killed.parquet.json"]


def test_what_is_complete_is_left_and_what_was_made_of_something_else_is_told(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e.parquet"
    embed(model, images, out)
    before = out.stat().st_mtime_ns
    embed(model, images, out)
    assert "is complete" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="made of other scales"):
        embed(model, images, out, "--scales")
    other = tmp_path / "other"
    MultiTaskModel(small_encoder(), {"colour": spec_of("class")}, sizes={"colour": (48, 40)}).save_pretrained(other)
    with pytest.raises(SystemExit, match="made of other model"):
        embed(other, images, out)
    Image.new("RGB", (9, 9)).save(images / "part0" / "0.png")
    with pytest.raises(SystemExit, match=r"made of other inputs.*Give another --out"):
        embed(model, images, out)


def test_a_corrupt_image_stops_but_keeps_what_was_done(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = images / "part1" / "1.png", tmp_path / "e.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"1\.png: not an image.*What was done before is kept"):
        embed(model, images, out)
    assert not out.exists()
    with pytest.raises(SystemExit, match="was begun with other scales"):
        embed(model, images, out, "--scales")
    file.write_bytes(whole)  # it was not done yet, so the others are
    embed(model, images, out)
    assert "4 of 11 were there already" in capsys.readouterr().out
    embed(model, images, tmp_path / "again.parquet")
    assert out.read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_a_process_that_dies_is_told_and_what_was_done_is_kept(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, main_process = InputDataset.image, os.getpid()

    def die(self: InputDataset, wanted: Wanted, task: int) -> Any:
        if wanted.file == 9 and os.getpid() != main_process:
            time.sleep(1)  # so that the batches before it are handed over
            os.kill(os.getpid(), signal.SIGKILL)
        return reading(self, wanted, task)

    monkeypatch.setattr(InputDataset, "image", die)
    with pytest.raises(SystemExit, match="A process that reads images died"):
        embed(model, images, tmp_path / "e.parquet", "--num_workers", "1")
    embed(model, images, tmp_path / "e.parquet")
    assert "8 of 11 were there already" in capsys.readouterr().out


def test_a_command_that_did_nothing_yet_binds_nobody(model: Path, images: Path, tmp_path: Path) -> None:
    first = images / "part0" / "0.png"
    whole = first.read_bytes()
    first.write_bytes(b"x")
    with pytest.raises(SystemExit, match=r"0\.png"):
        embed(model, images, tmp_path / "e.parquet", "--scales")
    first.write_bytes(whole)
    embed(model, images, tmp_path / "e.parquet")
    embed(model, images, tmp_path / "again.parquet")
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_inputs_that_change_in_between_are_told(model: Path, images: Path, tmp_path: Path) -> None:
    last, first = images / "part1" / "9.png", images / "part0" / "0.png"
    last.write_bytes(b"x")
    with pytest.raises(SystemExit, match="kept"):
        embed(model, images, tmp_path / "e.parquet")
    Image.new("RGB", (9, 9)).save(first)
    with pytest.raises(SystemExit, match=r"made of other inputs: files were changed.*remove .*e.parquet.parts"):
        embed(model, images, tmp_path / "e.parquet")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_bad_images_can_be_left_out_and_are_listed(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    for name in ("part0/2.png", "part1/9.png"):
        (images / name).write_bytes(b"\x89PNG nothing")
    embed(model, images, tmp_path / "e.parquet", "--skip_bad", "--num_workers", workers)
    ids, vectors = rows(tmp_path / "e.parquet")
    assert len(ids) == 9
    assert not {"part0/2.png", "part1/9.png"} & set(ids)
    assert np.abs(vectors - expected(model, [images / name for name in ids], "colour")).max() <= 1e-5
    assert "2 inputs were left out" in capsys.readouterr().out
    listed = json.loads((tmp_path / "e.parquet.json").read_text())["skipped"]
    assert ["2.png" in listed[0], "9.png" in listed[1], len(listed)] == [True, True, 2]


def bomb(file: Path) -> None:
    """A PNG of 30,000 x 30,000 pixels in 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**7))) + chunk(b"IEND", b""))


def nan(file: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(file.with_suffix(".tif"))


def deep(file: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(file)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (bomb, r"bad.png: .* bytes that would become far too many pixels"),
        (nan, r"bad.tif: 64 of 64 values are NaN or infinite"),
        (deep, r"bad.png: the image is uint16, but those of the task are uint8"),
        (lambda file: file.write_bytes(b""), r"bad.png: not an image that can be read \(0 bytes"),
        (lambda file: file.symlink_to("gone"), r"bad.png"),
    ],
)
def test_a_hostile_image_is_named(model: Path, tmp_path: Path, write: Callable[[Path], Any], told: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    write(folder / "bad.png")
    with pytest.raises(SystemExit, match=told):
        embed(model, folder, tmp_path / "e.parquet", task="grey")
    with pytest.raises(SystemExit, match=r"(?s)None of the 1 images can be used.*bad"):
        embed(model, folder, tmp_path / "e.parquet", "--skip_bad", task="grey")


def test_an_embedding_that_is_not_finite_is_named_and_not_written(model: Path, images: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 60), 3e38, np.float32)).save(images / "part0" / "huge.tif")
    with pytest.raises(SystemExit, match=r"part0/huge.tif: its embedding is not finite"):
        embed(model, images, tmp_path / "e.parquet")
    embed(model, images, tmp_path / "e.parquet", "--skip_bad")
    ids, vectors = rows(tmp_path / "e.parquet")
    assert len(ids) == 11
    assert "part0/huge.tif" not in ids
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("task", ["colour", "grey"])
def test_an_image_of_one_pixel_has_a_vector(model: Path, tmp_path: Path, task: str) -> None:
    Image.new("L", (1, 1), 200).save(tmp_path / "one.png")
    embed(model, tmp_path / "one.png", tmp_path / "e.npy", task=task)
    assert np.isfinite(np.load(tmp_path / "e.npy")).all()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("model.safetensors", b"\x10", r"model.safetensors cannot be loaded"),
        ("config.json", b'{"format": ', r"config.json is not JSON"),
        ("config.json", b"[]", r"config.json does not describe a model"),
    ],
)
def test_a_hostile_model_is_named(
    model: Path, images: Path, tmp_path: Path, file: str, content: bytes, told: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if content == b"\x10" else content)
    with pytest.raises(SystemExit, match=told):
        embed(folder, images, tmp_path / "e.parquet")


def test_wrong_options_are_told(model: Path, images: Path, tmp_path: Path) -> None:
    base = ["embed", "--model", str(model), "--out", str(tmp_path / "e.npy")]
    with pytest.raises(SystemExit, match=r"several tasks.*--task.*colour, grey"):
        main([*base, "--inputs", str(images)])
    with pytest.raises(SystemExit, match=r"no task 'x'.*colour, grey"):
        main([*base, "--inputs", str(images), "--task", "x"])
    with pytest.raises(SystemExit, match=r"There is nothing|there is nothing"):
        main([*base, "--inputs", str(model), "--task", "grey"])
    with pytest.raises(SystemExit, match=r"gone1.png(?s:.*)gone2.png"):
        main([*base, "--inputs", "gone1.png", "gone2.png", "--task", "grey"])
    with pytest.raises(SystemExit, match=r"written as .parquet or .npy"):
        embed(model, images, tmp_path / "e.txt")
    with pytest.raises(SystemExit, match="--device nonsense cannot be used"):
        embed(model, images, tmp_path / "e.npy", "--device", "nonsense")
    (tmp_path / "t.csv").write_text("path,id\nimages/part0/0.png,../../x\n")
    with pytest.raises(SystemExit, match="leads out of a folder"):
        embed(model, tmp_path / "t.csv", tmp_path / "e.npy", "--columns.id", "id")


def test_the_checkpoint_of_a_run_is_taken_too(project: Path, tmp_path: Path) -> None:
    run_folder, out = tmp_path / "run", tmp_path / "e.npy"
    main(["fit", "--config", str(project / "config.yaml"), "--run", str(run_folder), "--trainer.max_epochs", "1"])
    main(["export", "--run", str(run_folder), "--out", str(tmp_path / "model")])
    inputs = project / "test" / "images"
    embed(run_folder / "checkpoints" / "best.ckpt", inputs, out, task="sizes")
    embed(tmp_path / "model", inputs, tmp_path / "of_folder.npy", task="sizes")
    assert np.array_equal(np.load(out), np.load(tmp_path / "of_folder.npy"))
    (tmp_path / "broken.ckpt").write_bytes(b"x")
    with pytest.raises(SystemExit, match=r"broken.ckpt cannot be read as a checkpoint"):
        embed(tmp_path / "broken.ckpt", inputs, tmp_path / "b.npy", task="sizes")
