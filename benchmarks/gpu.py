"""`python -m benchmarks gpu`: what only a GPU can show; without one it runs in small, to no figure."""

from __future__ import annotations

from benchmarks.suite import Benchmark, Figure

_SHARE, _TIME = Figure(at_least=0.9), Figure(at_most=1.05)


def _throughput(name: str) -> Benchmark:
    return Benchmark(
        f"gpu_training:{name}",
        (40, 10),
        {
            f"gpu.trainer_over_bare_{name}": _TIME,
            f"gpu.loader_over_memory_{name}": _SHARE,
            f"gpu.waiting_share_{name}": Figure(at_most=0.1),
        },
    )


GPU = {
    "gpu_synchronisations": Benchmark(
        "gpu_training:synchronisations", (15, 5), {"gpu.synchronisations_a_step": Figure("waits", at_most=2)}
    ),
    "gpu_memory": Benchmark("gpu_training:memory", (20, 10), {"gpu.peak_memory_64_over_4_tasks": Figure(at_most=1.05)}),
    "gpu_swin": _throughput("swin"),
    "gpu_vit": _throughput("vit"),
    "gpu_precisions": Benchmark(
        "gpu_training:precisions",
        (20, 5),
        {"gpu.fp16_over_fp32": Figure(at_most=0.7), "gpu.bf16_over_fp32": Figure(at_most=0.7)},
    ),
    "gpu_options": Benchmark(
        "gpu_training:options",
        (60, 60),
        {
            "gpu.channels_last_over_contiguous": Figure(at_most=1.0),
            "gpu.compiled_over_eager": Figure(at_most=1.0),
            "gpu.checkpointing_time": Figure(at_most=1.35),
        },
    ),
    "gpu_checkpointing": Benchmark(
        "gpu_training:checkpointing_memory", (15, 5), {"gpu.checkpointing_memory": Figure(at_most=0.7)}
    ),
    "gpu_inference": Benchmark(
        "gpu_inference:measure",
        (50, 15),
        {
            "gpu.validation_rate_over_bare": _SHARE,
            "gpu.predict_rate_over_bare": _SHARE,
            "gpu.embed_rate_over_bare": _SHARE,
        },
    ),
    "gpu_resume": Benchmark(
        "gpu_training:resumed", (60, 40), {"gpu.killed_runs_that_differ": Figure("runs", at_most=0)}
    ),
    "gpu_one_rank": Benchmark("gpu_training:one_rank", (20, 5), {"gpu.nccl_one_rank_over_single": _TIME}),
}
