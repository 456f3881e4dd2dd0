"""All benchmarks, the figures each of them gives, and the targets. This is the one place that knows them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

#: A benchmark: with `quick` it repeats less. It returns its figures as ``{"group.figure": value}``.
Measure = Callable[[bool], dict[str, float]]


@dataclass(frozen=True)
class Figure:
    """What is known of a figure before it is measured.

    Attributes:
        unit: What it counts; a ratio where it is empty.
        at_most: The largest value that is good enough.
        at_least: The smallest; neither where the figure is only reported.
    """

    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> str | None:
        """The target in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return None if self.at_least is None else f">= {self.at_least:g}"

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True)
class Benchmark:
    """A program that measures.

    Attributes:
        function: Where its `Measure` is, as ``module:name`` below ``benchmarks``.
        seconds: About how long it takes on two cores, in full and when it is quick; 0 where a run of all programs does
            without it.
        figures: What it measures, by ``group.figure``.
        own_processes: Whether it measures in processes that it starts itself, and needs none made for it.
    """

    function: str
    seconds: tuple[int, int]
    figures: dict[str, Figure]
    own_processes: bool = False

    def measure(self, quick: bool) -> dict[str, float]:
        """Runs it here."""
        module, name = self.function.split(":")
        measure: Measure = getattr(importlib.import_module(f"benchmarks.{module}"), name)
        return measure(quick)


BENCHMARKS = {
    "start": Benchmark(
        "start:measure", (22, 17), {"start.help_over_import_lightning": Figure(at_most=0.10)}, own_processes=True
    ),
    "inference_start": Benchmark(
        "inference_start:measure",
        (28, 0),
        {
            "start.import_model_over_import_timm": Figure(at_most=1.30),
            "start.memory_model_over_import_timm": Figure(at_most=1.20),
        },
        own_processes=True,
    ),
    "saved_tensors": Benchmark(
        "memory:saved_tensors",
        (18, 0),
        {
            "memory.saved_tensors_64_over_largest": Figure(at_most=1.01),
            "memory.accumulate_over_joint_16": Figure(at_most=0.10),
        },
    ),
    "rss_trainer": Benchmark(
        "memory:rss_trainer", (10, 0), {"memory.rss_trainer_64_over_4": Figure(at_most=1.10)}, own_processes=True
    ),
    # needs real data that are not part of the project: by name alone
    "rss_real": Benchmark(
        "memory:rss_real", (0, 0), {"memory.rss_25_over_5_tasks": Figure(at_most=1.10)}, own_processes=True
    ),
    "tables": Benchmark(
        "tables:measure",
        (180, 12),
        {
            "tables.bytes_a_row": Figure("bytes", at_most=100),
            "tables.seconds_10_million_rows": Figure("s", at_most=60),
        },
        own_processes=True,
    ),
    "shards": Benchmark(
        "shards:rate", (70, 25), {"shards.rate_over_bare_50ms": Figure(at_least=0.9)}, own_processes=True
    ),
    # three minutes, and nothing that another machine would change: by name alone
    "shards_killed": Benchmark(
        "shards:killed", (0, 0), {"shards.runs_that_differ": Figure("runs", at_most=0)}, own_processes=True
    ),
    "checkpointing": Benchmark(
        "memory:checkpointing",
        (55, 0),
        {"memory.checkpointing_rss": Figure(at_most=0.70), "memory.checkpointing_time": Figure(at_most=1.35)},
        own_processes=True,
    ),
    "bags": Benchmark(
        "bags:measure",
        (210, 0),
        {
            "bags.gradient_error": Figure("relative", at_most=1e-5),
            "bags.gradient_error_float64": Figure("relative", at_most=1e-9),
            "bags.memory_2048_over_64": Figure(at_most=1.2),
            "bags.time_over_plain": Figure(at_most=1.4),
            "bags.runs_that_differ": Figure("runs", at_most=0),
        },
    ),
    "overhead": Benchmark(
        "overhead:measure",
        (80, 25),
        {
            "speed.step_over_forward_backward": Figure(at_most=1.10),
            "speed.trainer_over_bare_17ms_4_tasks": Figure(at_most=1.10),
            "speed.trainer_over_bare_170ms": Figure(at_most=1.02),
            "speed.overhead_ms_per_task": Figure("ms", at_most=0.06),
            "speed.bare_step_ms_of_17": Figure("ms"),
            "speed.bare_step_ms_of_170": Figure("ms"),
        },
        own_processes=True,
    ),
    "optimizer": Benchmark("speed:optimizer", (4, 1), {"speed.optimizer_one_over_many_64": Figure(at_most=0.20)}),
    "packed": Benchmark("speed:packed", (9, 3), {"speed.packed_over_accumulated": Figure(at_most=0.85)}),
    "options": Benchmark(
        "speed:options",
        (6, 0),
        {
            "speed.bf16_over_fp32": Figure(),
            "speed.bf16_over_fp32_swin": Figure(),
            "speed.channels_last_over_contiguous": Figure(),
        },
    ),
    "compiled": Benchmark(
        "speed:compiled",
        (50, 0),
        {"speed.compiled_over_eager": Figure(), "speed.compiled_first_step_seconds": Figure("s")},
    ),
    "whole_run": Benchmark(
        "whole_run:measure",
        (55, 0),
        {"speed.run_16_tasks_over_bare": Figure(at_most=1.10)},
        own_processes=True,
    ),
    "shared_machine": Benchmark(
        "shared_machine:measure",
        (240, 0),
        {
            "speed.beside_a_busy_process": Figure(at_least=0.55),
            "speed.at_rest_over_spinning": Figure(at_least=0.85),
        },
        own_processes=True,
    ),
    "resume": Benchmark(
        "resume:measure",
        (58, 0),
        {"resume.runs_that_differ": Figure("runs", at_most=0), "resume.first_batch_20000_over_0": Figure(at_most=1.5)},
        own_processes=True,
    ),
    "balance": Benchmark(
        "balance:measure",
        (120, 0),
        {
            "balance.sketch_cosine_error": Figure("absolute", at_most=0.02),
            "balance.memory_over_gradient_32_tasks": Figure(at_most=0.05),
            "balance.step_over_plain": Figure(at_most=1.15),
            "balance.map_over_plain": Figure(at_most=1.03),
            "balance.opposed_tasks": Figure(at_most=0.8),
        },
    ),
    "balance_resume": Benchmark(
        "resume:balanced", (0, 0), {"balance.runs_that_differ": Figure("runs", at_most=0)}, own_processes=True
    ),
    "distributed": Benchmark(
        "distributed:measure",
        (33, 0),
        {
            "distributed.collectives_32_over_2_tasks": Figure(at_most=1.0),
            "distributed.bytes_over_gradients": Figure(at_most=1.01),
            "distributed.exchange_bytes_over_gradients": Figure(at_most=0.05),
            "distributed.max_parameter_error": Figure("absolute", at_most=1e-6),
        },
        own_processes=True,
    ),
    "check": Benchmark(
        "check:measure",
        (13, 2),
        {"check.rate_over_bare_decode": Figure(at_least=0.8), "check.rate_over_bare_decode_clock": Figure()},
    ),
    "encoders": Benchmark(
        "encoders:measure",
        (12, 0),
        {
            "encoders.vit_token_error": Figure("absolute", at_most=1e-5),
            "encoders.lora_trainable_share": Figure(at_most=0.02),
            "encoders.lora_merged_error": Figure("absolute", at_most=1e-5),
            "encoders.lora_file_share": Figure(at_most=0.03),
        },
    ),
    # nothing that another machine would change: by name alone
    "encoders_sharded": Benchmark(
        "sharded:measure",
        (0, 0),
        {
            "encoders.sharded_memory_over_one": Figure(at_most=0.55),
            "encoders.sharded_parameter_error": Figure("absolute", at_most=1e-6),
        },
        own_processes=True,
    ),
    "export": Benchmark(
        "export:measure",
        (50, 0),
        {
            "export.onnx_seconds_20_tasks": Figure("s", at_most=180),
            "export.onnx_bytes_over_weights": Figure(at_most=1.5),
            "export.onnx_difference": Figure("share", at_most=1e-4),
        },
    ),
    "embed": Benchmark(
        "embed:measure",
        (26, 7),
        {
            "embed.rate_over_bare_timm": Figure(at_least=0.95),
            "embed.rate_over_bare_timm_clock": Figure(),
            "embed.memory_10x_images": Figure(at_most=1.05),
        },
        own_processes=True,
    ),
    "predict": Benchmark(
        "predict:measure", (40, 15), {"predict.rate_over_bare": Figure(at_least=0.95)}, own_processes=True
    ),
    "large_image": Benchmark(
        "large_image:memory", (210, 0), {"predict.peak_gib_10000_pixels": Figure("GiB", at_most=3)}, own_processes=True
    ),
    "tiles": Benchmark(
        "large_image:tiles",
        (60, 0),
        {
            "predict.tiles_difference_swin_t": Figure("probability", at_most=1e-3),
            "predict.tiles_difference_resnet18": Figure("probability", at_most=1e-3),
            "predict.tiles_difference_efficientnet_lite0": Figure("probability", at_most=1e-3),
            "predict.tiles_difference_efficientnet_b0": Figure("probability", at_most=1e-3),
            "predict.tiles_difference_convnextv2_atto": Figure("probability", at_most=1e-3),
        },
    ),
    "encoder_bound_small": Benchmark(
        "encoder_bound:small",
        (32, 0),
        {
            "loader.encoder_bound_share_small": Figure(at_least=0.90),
            "loader.encoder_bound_share_small_clock": Figure(),
            "loader.encoder_bound_ms_an_image_small": Figure("ms"),
        },
        own_processes=True,
    ),
    "encoder_bound_swin": Benchmark(
        "encoder_bound:swin",
        (58, 0),
        {
            "loader.encoder_bound_share_swin": Figure(at_least=0.98),
            "loader.encoder_bound_share_swin_clock": Figure(),
            "loader.encoder_bound_ms_an_image_swin": Figure("ms"),
        },
        own_processes=True,
    ),
    "many_tasks": Benchmark(
        "loader:many_tasks",
        (23, 3),
        {
            "loader.workers_64_over_2_tasks": Figure(at_most=1.0),
            "loader.memory_64_over_2_tasks": Figure(at_most=1.2),
            "loader.first_batch_64_over_2_tasks": Figure(at_most=1.5),
            "loader.first_batch_64_over_2_tasks_clock": Figure(),
        },
        own_processes=True,
    ),
    "loader_a_task": Benchmark(
        "loader:loader_a_task",
        (25, 3),
        {
            "loader.memory_pool_over_loader_a_task": Figure(at_most=0.25),
            "loader.first_batch_pool_over_loader_a_task": Figure(at_most=0.2),
            "loader.first_batch_pool_over_loader_a_task_clock": Figure(),
            "loader.throughput_pool_over_loader_a_task": Figure(at_least=0.95),
        },
        own_processes=True,
    ),
    # a quarter of an hour, and nothing that another machine would change: by name alone
    "mutants": Benchmark(
        "mutants:measure", (0, 0), {"tests.mutants_killed": Figure(at_least=0.95)}, own_processes=True
    ),
}
