"""Blocks that are shared out between ranks, against one process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor

from benchmarks.ranks import on_ranks
from umedpt_lightning.blocks import ViTEncoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs.trainer_options import check_options
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.aggregation import ExactBalance, GradientAggregator, SketchBalance
from umedpt_lightning.training.aggregation.watch import GradientWatch
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.training.sharding import ShardedStrategy, check_sharding, own_part

TASKS = {"a_class": "class", "a_mask": "mask", "a_box": "box"}
STEPS, RESUMED = 20, 10
TINY = {"depth": 3, "embed_dim": 32, "num_heads": 2}
vit = partial(ViTEncoder, "vit_small_patch14_reg4_dinov2", model_args=TINY)
ENCODERS = {
    "vit": vit,
    "computed again": partial(vit, checkpointing=True),
    "lora": partial(vit, lora_rank=2),
    "convnext": small_encoder,
    "batch norm": partial(small_encoder, "test_resnet"),
}
AGGREGATORS: dict[str, Callable[[], GradientAggregator]] = {
    "exact": lambda: ExactBalance(rising),
    # as many buckets as a rank has elements, which makes no error
    "sketch": lambda: SketchBalance(rising, buckets=10**6),
    "watch": lambda: GradientWatch(buckets=10**6),
}


def rising(products: Tensor) -> Tensor:
    """Weights of tasks whose sum is 1."""
    return torch.linspace(0.1, 0.5, len(products), dtype=products.dtype) / (0.3 * len(products))


class WildReader(MemoryReader):
    """Some images are infinite."""

    def __init__(self, kind: str, wild: set[int], **options: Any) -> None:
        super().__init__(kind, **options)
        self.images = self.images.astype(np.float32)
        for index in wild:
            self.images[index] = np.inf


def data_of(times: int, steps: int = STEPS, wild: set[int] | None = None) -> MultiTaskDataModule:
    """Five samples to validate, so that ranks have different numbers of micro-batches."""
    readers, to_validate = (readers_of(TASKS, size=size, side=64) for size in (7, 5))
    if wild is not None:
        readers["a_class"] = WildReader("class", wild, size=7, side=64)
    tasks = {
        name: TaskData(train=reader, val=to_validate[name], batch_size=2, micro_batches=times)
        for name, reader in readers.items()
    }
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=steps)


def trained(
    world_size: int,
    encoder: str = "vit",
    steps: int = 3,
    folder: str | None = None,
    ckpt: str | None = None,
    wild: set[int] | None = None,
    strategy: str = "sharded",
    aggregator: str | None = None,
    frozen: bool = False,
) -> dict[str, Any]:
    """What comes out of a training on this rank, in double precision, with a frozen stem and clipped gradients."""
    data = data_of(1 if world_size > 1 else 2, steps, wild)
    torch.manual_seed(int(os.environ["RANK"]) if world_size > 1 else 0)  # ranks begin alike nevertheless
    module = MultiTaskModule(
        data.specs,
        ENCODERS[encoder](),
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=SMALL_DETECTION,
        optimization=Optimization(clip=0.05),
        aggregator=AGGREGATORS[aggregator]() if aggregator else None,
    ).double()
    for parameter in module.model.encoder.parameters() if frozen else ():
        parameter.requires_grad = False
    for parameter in next(iter(module.model.encoder.net.children())).parameters():
        parameter.requires_grad = False
    folder = folder or mkdtemp()
    savers = [
        ModelCheckpoint(folder, "{step}", every_n_train_steps=RESUMED, save_top_k=-1),
        ModelCheckpoint(folder, "best", monitor="val/score", mode="max"),  # is written at the end of a validation
    ]
    trainer = trainer_of(
        devices=world_size,
        strategy={"sharded": ShardedStrategy(timeout=timedelta(seconds=60))}.get(strategy, strategy)
        if world_size > 1
        else "auto",
        max_steps=steps,
        limit_val_batches=1.0,
        val_check_interval=min(2, steps) if steps < RESUMED else 8,
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
        callbacks=savers,
        enable_checkpointing=True,
    )
    trainer.fit(module, data, ckpt_path=ckpt)
    state = trainer.optimizers[0].state
    blocks = [p for name, p in module.model.named_parameters() if not name.startswith("tasks.")]
    kept = [*blocks, *(p.grad for p in blocks), *(v for p in blocks for v in state.get(p, {}).values() if v.ndim)]
    return {
        "parameters": trainer.strategy.lightning_module_state_dict(),  # of the first rank
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "bytes": sum(own_part(one).nbytes for one in kept if one is not None),
        "norm": float(module.gradients.norm),
        "factors": dict(module.gradients.factors or module.aggregator.factors) if module.aggregator else {},
        "products": module.gradients.gram.matrix if module.aggregator and module.gradients.gram else None,
        "dropped": dict(module.gradients.non_finite.dropped),
    }


@cache
def whole_run(world_size: int) -> tuple[list[dict[str, Any]], str]:
    """Of 20 steps with a checkpoint after 10, and its folder."""
    folder = mkdtemp()
    run = partial(trained, steps=STEPS, folder=folder)
    return ([run(1)] if world_size == 1 else on_ranks(run, world_size, world_size)), folder


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "encoder", [name if name == "vit" else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS]
)
def test_ranks_that_share_out_blocks_end_with_the_parameters_of_one_process(encoder: str) -> None:
    if encoder == "lora":
        pytest.importorskip("peft")
    expected = trained(1, encoder)
    assert expected["norm"] > 0.05, "gradients are clipped"
    ranks = on_ranks(trained, 2, 2, encoder)
    assert_same(ranks[0]["parameters"], expected["parameters"])
    for found in ranks:
        assert found["norm"] == pytest.approx(expected["norm"], rel=1e-9)
        assert found["bytes"] <= 0.55 * expected["bytes"]
        # losses of validation depend on the cut into micro-batches
        other = {"train/samples_per_second"} | {f"val/{task}/loss" for task in TASKS}
        metrics = {name: value for name, value in expected["metrics"].items() if name not in other}
        assert "val/score" in metrics
        assert {n: found["metrics"][n] for n in metrics} == pytest.approx(metrics, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("aggregator", ["exact", pytest.param("sketch", marks=pytest.mark.slow)])
def test_tasks_are_balanced_as_in_one_process(aggregator: str) -> None:
    run = partial(trained, aggregator=aggregator)
    expected, ranks = run(1), on_ranks(run, 2, 2)
    assert len(set(expected["factors"].values())) == len(TASKS), "tasks are weighed"
    # where a gradient is nearly zero, the order of sums shows after a step of Adam
    assert_same(ranks[0]["parameters"], expected["parameters"], atol=1e-7)
    for found in ranks:
        assert found["factors"] == pytest.approx(expected["factors"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["sketch", "watch"])
@pytest.mark.parametrize("frozen", [False, True])
def test_inner_products_of_parts_are_those_of_whole_gradients(aggregator: str, frozen: bool) -> None:
    run = partial(trained, steps=1, frozen=frozen)
    expected = run(1, aggregator="exact")["products"]
    assert expected.diagonal().min() > 0
    for found in on_ranks(partial(run, aggregator=aggregator), 2, 2):
        torch.testing.assert_close(found["products"], expected, rtol=1e-6, atol=1e-12)


def peak_of(kinds: dict[str, str]) -> int:
    """What autograd keeps on this rank, at most, in two rounds of small encoders that are shared out."""
    tasks = {name: TaskData(train=r, batch_size=2) for name, r in readers_of(kinds, side=64).items()}
    data = MultiTaskDataModule(tasks, num_workers=0)
    module = MultiTaskModule(data.specs, vit(), pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION)
    with SavedBytes() as saved:
        trainer_of(max_steps=2, devices=2, strategy="sharded", use_distributed_sampler=False).fit(module, data)
    assert saved.alive == 0
    return saved.peak


@pytest.mark.slow
def test_of_sixty_four_tasks_no_more_is_kept_than_of_the_largest() -> None:
    many = {f"t{i}_{KINDS[i % 5]}": KINDS[i % 5] for i in range(64)}
    largest = max(max(on_ranks(peak_of, 2, {name: kind})) for name, kind in list(many.items())[:5])
    assert largest > 1_000_000
    assert max(on_ranks(peak_of, 2, many)) <= 1.01 * largest


@pytest.mark.slow
def test_after_20_steps_too() -> None:
    ((one,), _), (two, _) = whole_run(1), whole_run(2)
    assert_same(two[0]["parameters"], one["parameters"])


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(before: int, after: int) -> None:
    (first, *_), folder = whole_run(before)
    go_on = partial(trained, steps=STEPS, ckpt=f"{folder}/step={RESUMED}.ckpt")
    resumed = go_on(1) if after == 1 else on_ranks(go_on, after, after)[0]
    assert_same(resumed["parameters"], first["parameters"])
    assert resumed["metrics"]["train/learning_rate"] == first["metrics"]["train/learning_rate"]


@pytest.mark.slow
def test_a_checkpoint_is_a_model_as_any_other(tmp_path: Path) -> None:
    (first, *_), folder = whole_run(2)
    MultiTaskModel.from_pretrained(f"{folder}/step={STEPS}.ckpt").save_pretrained(tmp_path / "model")
    model = MultiTaskModel.from_pretrained(tmp_path / "model")
    expected = {n.removeprefix("model."): v for n, v in first["parameters"].items() if n.startswith("model.")}
    assert_same({name: value.double() for name, value in model.state_dict().items()}, expected, atol=1e-6)
    image = np.zeros((64, 64, 3), np.uint8)
    assert [model.predict([image], task)[0] is not None for task in TASKS] == [True] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Round")
def test_what_is_not_finite_on_one_rank_is_left_out_as_with_ddp() -> None:
    whole, shared = (on_ranks(partial(trained, wild={3}, strategy=s), 2, 2) for s in ("ddp", "sharded"))
    assert whole[0]["dropped"]["a_class"] == 1
    for one, other in zip(whole, shared, strict=True):
        assert (other["dropped"], other["norm"]) == (one["dropped"], pytest.approx(one["norm"], rel=1e-9))
    assert_same(shared[0]["parameters"], whole[0]["parameters"])


def refused(**options: Any) -> str:
    """The message of a run that cannot be one."""
    parts = {"pack_pixels": options.pop("pack_pixels")} if "pack_pixels" in options else {}
    data = data_of(1)
    encoder = small_encoder(channels_last=options.pop("channels_last", False))
    module = MultiTaskModule(data.specs, encoder, **parts)
    module.compiled = options.pop("compile", False)
    trainer = trainer_of(**options.pop("trainer", {}))
    with pytest.raises(ValueError, match=r"trainer\.strategy sharded") as error:
        check_sharding(trainer, module, SimpleNamespace(**options))
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distribute": "tasks"}, "data.distribute tasks cannot .* Take `samples`"),
        ({"pack_pixels": 10**6}, "model.pack_pixels cannot .* Leave it at 0"),
        ({"compile": True}, "model.compile cannot"),
        ({"channels_last": True}, "encoder.channels_last cannot"),
        ({"trainer": {"callbacks": [EMAWeightAveraging()]}}, "trainer.callbacks EMAWeightAveraging cannot"),
    ],
)
def test_what_ranks_that_share_out_blocks_cannot_do_is_refused(options: dict[str, Any], named: str) -> None:
    assert re.search(named, refused(**options))


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("fit", ["--data.distribute", "tasks"], "data.distribute tasks cannot"),
        ("lr-find", [], "needs whole blocks"),
    ],
)
def test_the_command_line_tells_so_before_anything_is_written(
    command: str, options: list[str], named: str, project: Path, tmp_path: Path
) -> None:
    sharded = ["--trainer.strategy", "sharded", "--trainer.devices", "2"]
    with pytest.raises(SystemExit, match=f"trainer.strategy sharded: .*{named}"):
        main([command, "--config", str(project / "config.yaml"), "--run", str(tmp_path / "run"), *sharded, *options])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2", "ModelParallelStrategy"])
def test_other_strategies_of_the_kind_are_refused_with_the_mend(strategy: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.strategy {strategy} cannot be used here.*`sharded`"):
        check_options({"strategy": strategy})
    check_options({"strategy": "sharded"})
