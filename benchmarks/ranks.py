"""Several ranks on this machine, and what they say to each other."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def on_ranks(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """What a function returns on each of several ranks, where Lightning finds itself started as by torchrun.

    The ranks are forked, as a data loader's workers are: spawned ones would import torch and Lightning anew, for 10
    seconds. What they return must be tensors, numbers and containers of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = (world_size, free_port(), folder, function, arguments)
        mp.start_processes(_rank, start, nprocs=world_size, start_method="fork")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world_size)]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def torchrun_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives a rank of one node."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "TORCHELASTIC_RUN_ID": "ranks",
    }


def _rank(
    rank: int, world_size: int, port: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= torchrun_variables(rank, world_size, port)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Allocations(TorchDispatchMode, AbstractContextManager["Allocations"]):
    """Adds up the memory of all tensors that operators make, and not that of views and of what is written in place.

    Attributes:
        bytes: So many, whether they are still in use or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and (storage := made.untyped_storage()).data_ptr() not in known:
                known.add(storage.data_ptr())
                self.bytes += storage.nbytes()
        return result


class Collectives(TorchDispatchMode, AbstractContextManager["Collectives"]):
    """Takes down every collective, whoever calls it: as operators of torch they are all seen here.

    Attributes:
        calls: The name and the bytes of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            self.calls.append((func._opname, sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))))
        return func(*args, **(kwargs or {}))
