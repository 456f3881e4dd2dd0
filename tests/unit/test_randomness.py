"""What a round draws: a function of the seed, the round and the rank."""

from __future__ import annotations

import random

import numpy as np
import torch

from umedpt_lightning.training.randomness import RoundRandomness


def seeded(seed: int) -> RoundRandomness:
    torch.manual_seed(seed)
    return RoundRandomness()


def drawn(randomness: RoundRandomness, round_: int, rank: int) -> tuple[float, float, float]:
    randomness.start(round_, rank)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_rounds_ranks_and_seeds_differ_in_all_generators() -> None:
    with torch.random.fork_rng():
        found = [drawn(seeded(seed), round_, rank) for seed in (0, 1) for round_ in (0, 1) for rank in (0, 1)]
        for of_one in zip(*found, strict=True):
            assert len(set(of_one)) == len(found)


def test_a_run_that_goes_on_draws_by_its_own_seed() -> None:
    with torch.random.fork_rng():
        first, again = seeded(0), seeded(1)
        again.load_state_dict(first.state_dict())
        assert drawn(again, 7, 1) == drawn(first, 7, 1)
