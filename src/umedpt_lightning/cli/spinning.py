"""How long threads wait for each other, set before the library that lets them wait is loaded."""

from __future__ import annotations

import os

#: How often a thread of OpenMP that waits for the others looks before it sleeps. libgomp looks 300,000 times: threads
#: that wait for one which another process keeps from its core hold up those that could work.
_SPINS = "1000"
#: What says already how threads wait.
_SAID = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def wait_shortly() -> None:
    """Lets threads that wait for each other give their cores away soon, where the user has not said otherwise.

    To be called before torch is loaded, which reads it then.
    """
    if not any(name in os.environ for name in _SAID):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
