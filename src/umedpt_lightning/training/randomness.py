"""Random numbers of a round, the same however often the run was interrupted."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class RoundRandomness:
    """Seeds the generators of torch (all devices), NumPy and Python anew for every round.

    What dropout and the like draw is thereby a function of the seed, the round and the rank. So the only state is the
    seed, and a resumed run draws what it would have drawn, on whatever number of ranks.
    """

    def __init__(self) -> None:
        self._seed = torch.initial_seed()  # what `seed_everything` has set
        self._accelerated = torch.accelerator.is_available()

    def start(self, round_: int, rank: int) -> None:
        """Seeds for a round, counted from 0 over the whole run."""
        # Python mixes all bits of a whole number, so that neighbours have nothing in common
        random.seed(self._seed << 96 | round_ << 32 | rank)
        np.random.seed(random.getrandbits(32))
        seed = random.getrandbits(63)
        if self._accelerated:
            torch.manual_seed(seed)
        else:  # the other looks for accelerators each time, which takes 0.7 ms
            torch.default_generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the seed of the run that is resumed."""
        self._seed = state["seed"]
