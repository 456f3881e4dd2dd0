"""Tables of docs/results/together.md: each task alone and together with others, seed by seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from umedpt_lightning.transfer.evaluation import seed_interval

#: The metric of a task's label kind.
MAIN = ("auroc", "dice", "map50")
ALONE = "alone"


def scores(run: Path, part: str) -> dict[str, float]:
    """The main metric of each task of a run on a part, by task; of runs that are not there nothing."""
    file = run / "metrics.json"
    found = json.loads(file.read_text()).get(part, {}).get("metrics", {}) if file.is_file() else {}
    keys = (key.partition("/") for key in found)
    return {task: found[f"{task}/{metric}"] for task, _, metric in keys if metric in MAIN}


def of_arm(runs: Path, arm: str, seed: int, part: str) -> dict[str, float]:
    """Scores by task of ``RUNS/ARM_SEED``; those alone are of ``RUNS/alone_TASK_SEED``."""
    folders = sorted(runs.glob(f"{ALONE}_*_{seed}")) if arm == ALONE else [runs / f"{arm}_{seed}"]
    return {task: score for folder in folders for task, score in scores(folder, part).items()}


def table(runs: Path, arms: Sequence[str], seeds: Sequence[int], part: str) -> Iterator[str]:
    """Markdown: means over the seeds, and differences to alone seed by seed with their 95 % interval."""
    of = {arm: [of_arm(runs, arm, seed, part) for seed in seeds] for arm in arms}
    others = [arm for arm in arms if arm != ALONE]
    for arm, found in of.items():
        for seed, one in zip(seeds, found, strict=True):
            if missing := of[ALONE][0].keys() - one.keys():
                raise SystemExit(f"{arm}, seed {seed}: {', '.join(sorted(missing))} was not run, or not tested.")
    yield "| task | " + " | ".join([*arms, *(f"{arm} less {ALONE}" for arm in others)]) + " |"
    yield "| --- |" + " --- |" * (len(arms) + len(others))
    tasks = [*of[ALONE][0]]
    for task in [*tasks, "mean"]:
        values = {
            arm: np.array([np.mean([one[t] for t in tasks]) if task == "mean" else one[task] for one in of[arm]])
            for arm in arms
        }
        cells = [f"{values[arm].mean():.3f}" for arm in arms]
        for arm in others:
            gaps = values[arm] - values[ALONE]
            interval = seed_interval(gaps.tolist())
            told = f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
            told = f"**{told}**" if interval.low > 0 or interval.high < 0 else told
            cells.append(f"{told}: " + ", ".join(f"{gap:+.3f}" for gap in gaps))
        yield f"| {task} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--arms", nargs="+", default=[ALONE, "fixed", "upgrad"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--part", choices=["val", "test"], default="test", help="val chooses, test tells")
    options = parser.parse_args()
    print("\n".join(table(options.runs, options.arms, options.seeds, options.part)))


if __name__ == "__main__":
    main()
