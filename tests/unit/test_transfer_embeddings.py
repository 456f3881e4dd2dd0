"""Sources of weights, and embeddings that are computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from builders import SMALL_PIXELS, MemoryReader, spec_of
from torch import nn

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.blocks.batch_norm import normalises_by_batch
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer import embeddings as module
from umedpt_lightning.transfer.embeddings import Embeddings, embeddings
from umedpt_lightning.transfer.sources import (
    CheckpointSource,
    PretrainedSource,
    TimmSource,
    WeightSource,
)

NET = "test_resnet"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


def build(source: WeightSource, seed: int = 0, kind: str = "class") -> MultiTaskModel:
    return source.create_model("new", spec_of(kind), None, seed)


def embed(model: MultiTaskModel, reader: MemoryReader | None = None, **options: object) -> Embeddings:
    data = TaskData(batch_size=4, **options)
    return embeddings(model, "new", data, reader or MemoryReader("class"), ComputeOptions())


def checkpoint(
    folder: Path, mode: str = "keep", kind: str = "class", config: bool = True
) -> tuple[Path, MultiTaskModel]:
    """What a run leaves: a checkpoint, which has the config of its model or not, and the run's config."""
    torch.manual_seed(1)
    encoder = Encoder(NET, batch_norm=mode)
    model = MultiTaskModel(encoder, {"old": spec_of(kind), "other": spec_of("class")})
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    (folder / "checkpoints").mkdir(parents=True)
    file = folder / "checkpoints" / "best.ckpt"
    state = {f"model.{k}": v for k, v in model.state_dict().items()} | {"x": torch.ones(1)}
    torch.save({"state_dict": state} | ({"model_config": model.model_config()} if config else {}), file)
    described = {"class_path": "umedpt_lightning.blocks.Encoder", "init_args": {"name": NET, "batch_norm": mode}}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"model": {"encoder": described}, "data": {"tasks": {"old": {}, "other": {}}}})
    )
    return file, model.eval()


def test_embeddings_are_those_of_the_model_in_the_order_of_the_samples() -> None:
    reader, model = MemoryReader("class", size=7), build(TimmSource(NET))
    found = embed(model, reader)
    images = torch.from_numpy(reader.images).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(model.eval().embed(images, "new"), torch.from_numpy(found.features), atol=1e-5)
    assert found.targets.tolist() == reader.values


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_targets_keep_what_is_unknown(kind: str) -> None:
    reader = MemoryReader(kind)
    found = embed(build(TimmSource(NET), kind=kind), reader)
    np.testing.assert_array_equal(found.targets, np.stack(reader.values))


def test_embeddings_are_computed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(TimmSource(NET))
    first = embed(model)
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(module, "embed_reader", lambda *_: pytest.fail("computed again"))
    again = embed(build(TimmSource(NET)))
    assert np.array_equal(first.features, again.features)


def test_what_changes_them_makes_new_ones(cache: Path) -> None:
    embed(build(TimmSource(NET)))
    embed(build(TimmSource(NET)), size=48)
    embed(build(TimmSource(NET)), MemoryReader("class", seed=5))
    embed(build(TimmSource(NET), seed=1))
    model = build(TimmSource(NET))
    model.encoder.mean += 0.1
    embed(model)
    assert len(list(cache.iterdir())) == 5


def test_a_damaged_file_is_computed_again(cache: Path) -> None:
    first = embed(build(TimmSource(NET)))
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(embed(build(TimmSource(NET))).features, first.features)


def test_an_embedding_that_is_no_number_names_its_image() -> None:
    reader = MemoryReader("class")
    reader.images = reader.images.astype(np.float32)
    reader.images[4, 3, 3] = np.nan
    with pytest.raises(ValueError, match="sample 4: its embedding is not finite"):
        embed(build(TimmSource(NET)), reader)


def test_random_weights_differ_by_seed_alone() -> None:
    digests = [weights_digest(build(TimmSource(NET), seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_foreign_encoder_gives_plain_means() -> None:
    model = build(TimmSource(NET))
    assert isinstance(model.pooling.norm, nn.Identity)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model.eval()
    with torch.no_grad():
        expected = model.pyramid(images, "new").maps[-1].mean(dim=(2, 3))
        assert torch.allclose(model.embed(images, "new"), expected)


@pytest.mark.parametrize("place", ["old checkpoint", "checkpoint", "run", "model folder"])
@pytest.mark.parametrize("mode", ["keep", "group", "freeze", "per_task"])
def test_a_trained_model_gives_its_embeddings_wherever_it_lies(tmp_path: Path, mode: str, place: str) -> None:
    file, trained = checkpoint(tmp_path / "run", mode, config=place != "old checkpoint")
    statistics_of = "other" if mode == "per_task" else None
    if place == "old checkpoint":
        source: WeightSource = CheckpointSource(str(file), statistics_of=statistics_of)
    else:
        (tmp_path / "run" / "config.yaml").unlink()
        trained.save_pretrained(tmp_path / "folder")
        paths = {"checkpoint": file, "run": tmp_path / "run", "model folder": tmp_path / "folder"}
        source = PretrainedSource(str(paths[place]), statistics_of)
    model = build(source)
    assert not any(layer.training for layer in model.train().encoder.modules() if isinstance(layer, nn.BatchNorm2d))
    model.eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        found = model.embed(images, "new")
        assert torch.allclose(found, trained.embed(images, "other"), atol=1e-5)
        if mode == "per_task":
            assert not torch.allclose(found, trained.embed(images, "old"), atol=2e-2)


def test_decoders_come_from_the_checkpoint_too(tmp_path: Path) -> None:
    file, trained = checkpoint(tmp_path / "run", kind="mask")
    model = build(PretrainedSource(str(file)), kind="mask")
    for key, value in trained.pixel_decoder.state_dict().items():
        assert torch.equal(model.pixel_decoder.state_dict()[key], value)


def test_decoders_of_a_timm_encoder_are_those_asked_for() -> None:
    model = build(TimmSource(NET, pixel_decoder=SMALL_PIXELS), kind="mask")
    assert model.pixel_decoder.out_channels == 4
    assert build(TimmSource(NET), kind="mask").pixel_decoder.out_channels == 32


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path / "run", "per_task", config=False)
    old = str(file)
    with pytest.raises(ValueError, match="Name the task that is most like the new one: old, other"):
        build(CheckpointSource(old))
    with pytest.raises(ValueError, match=r"does not say how its model is built.*CheckpointSource"):
        build(PretrainedSource(old))
    with pytest.raises(FileNotFoundError, match=r"There is no folder or file .*none\.ckpt"):
        build(CheckpointSource(str(tmp_path / "none.ckpt")))
    with pytest.raises(FileNotFoundError, match="no such config"):
        build(CheckpointSource(old, tmp_path / "none.yaml"))
    other = tmp_path / "other.yaml"
    other.write_text(file.parents[1].joinpath("config.yaml").read_text().replace(NET, "test_convnext"))
    with pytest.raises(ValueError, match=r"(?s)The encoder of .*best\.ckpt is not that of its config"):
        build(CheckpointSource(old, other, statistics_of="old"))
    torch.save({"weights": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        build(CheckpointSource(old))


def test_the_config_of_a_run_is_not_asked_for_where_the_checkpoint_has_that_of_its_model(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path / "run")
    with pytest.warns(FutureWarning, match="`config` is not read"):
        build(CheckpointSource(str(file), tmp_path / "run" / "config.yaml"))


class OwnEncoder(Encoder):
    """An encoder of a user's own."""


def test_an_encoder_of_ones_own_is_named_by_its_class(tmp_path: Path) -> None:
    trained = MultiTaskModel(OwnEncoder(NET), {"old": spec_of("class")}).eval()
    trained.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="'OwnEncoder'"):
        build(PretrainedSource(str(tmp_path / "folder")))
    model = build(PretrainedSource(str(tmp_path / "folder"), classes=[OwnEncoder]))
    assert isinstance(model.encoder, OwnEncoder)


def test_random_weights_come_without_the_statistics_that_they_lack(tmp_path: Path) -> None:
    assert not normalises_by_batch(build(TimmSource(NET)).encoder)
    torch.save(timm.create_model(NET).state_dict(), tmp_path / "w.pth")
    loaded = build(TimmSource(NET, tmp_path / "w.pth")).train()
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in loaded.encoder.modules())
    assert not any(layer.training for layer in loaded.encoder.modules() if isinstance(layer, nn.BatchNorm2d))
