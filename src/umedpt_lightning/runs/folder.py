"""The folder of a run: its checkpoints, one process that trains at a time, and what it was trained with last."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from umedpt_lightning.data.formats.text_files import read_yaml
from umedpt_lightning.training.checkpoints import LAST, PREVIOUS, intact

#: Of the folder: is locked as long as a process trains in it.
_LOCK = ".lock"
#: Keys of a config that say where and how a run is started, not what is trained.
_NOT_COMPARED = ("run", "config", "ckpt_path", "init_from", "trainer.default_root_dir")
#: Keys that have no effect on a run that goes on: random numbers and weights are those of the checkpoint.
_OF_THE_START = ("seed_everything", "model.encoder.init_args.weights")
_held: dict[Path, int] = {}


def default_folder() -> Path:
    """``runs/<date-time>``; of a SLURM job one that is the same after it was requeued.

    An agent of a sweep of Weights & Biases starts many runs in one job, and says which by its variables.
    """
    job = os.environ.get("SLURM_JOB_ID")
    trial = f"-{os.environ.get('WANDB_RUN_ID')}" if os.environ.get("WANDB_SWEEP_ID") else ""
    return Path(f"runs/slurm-{job}{trial}" if job else time.strftime("runs/%Y%m%d-%H%M%S"))


def new_folder() -> Path:
    """The default folder, made here; where another run of the same second has it, the next one, ``…-2``.

    Raises:
        OSError: It cannot be made.
    """
    name = folder = default_folder()
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok="SLURM_JOB_ID" in os.environ)
            break
        except FileExistsError:
            folder = name.with_name(f"{name.name}-{number}")
    return folder


def wandb_id(folder: Path) -> str:
    """The id of a run at Weights & Biases, kept in its folder, so that it is the same when the run goes on."""
    file = folder / "wandb_id.txt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def claim(folder: Path) -> None:
    """Locks a run's folder until the process ends, however it ends.

    Raises:
        ValueError: Another process trains in it.
        OSError: It cannot be written to.
    """
    folder = folder.absolute()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(
            f"--run {folder}: another process trains in this folder ({who or 'unknown'}). Give each run a folder of "
            "its own, or wait until that process has ended."
        ) from error
    except OSError:  # this file system has no locks; a run that is there is still seen by its config.yaml
        os.close(descriptor)
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}, since {time.ctime()}".encode(), 0)
    _held[folder] = descriptor


def abandon(folder: Path) -> None:
    """Takes a claim back where a run could not start: the folder goes if there is nothing in it."""
    descriptor = _held.pop(folder.absolute(), None)
    if descriptor is not None:
        (folder / _LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # there is more in it
            folder.rmdir()


def _let_go() -> None:
    """Leaves the claims to the process that made them: its workers may outlive it for seconds, and would keep them."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def find_checkpoint(path: str | Path, run: Path, may_lack: bool = False) -> str | None:
    """A file, where ``best``, ``best_<task>`` and ``last`` are those of the run's folder.

    It is read to see that it is whole. Where ``last`` is damaged, the checkpoint before it is taken, with a message.
    There may be none yet with `may_lack`: the same command starts a run and, interrupted, goes on with it.

    Raises:
        CheckpointError: The file is damaged.
        FileNotFoundError: There is no such file.
    """
    folder = run / "checkpoints"
    if str(path) == "last":
        files = [folder / LAST, folder / PREVIOUS]
    else:
        files = [folder / f"{path}.ckpt" if re.fullmatch(r"best(_[^/.]+)?", str(path)) else Path(path)]
    there = [file for file in files if file.is_file()]
    if there:
        return str(intact(there, tell=rank_zero_warn))
    if str(path) == "last" and may_lack:
        return None
    known = sorted(str(f) for f in folder.glob("*.ckpt"))
    raise FileNotFoundError(
        f"--ckpt_path: there is no checkpoint {files[0]}. "
        + (
            f"In the run there are {', '.join(known)}."
            if known
            else "Give a file, or the run's folder by --run and `best` or `last`."
        )
    )


def keep_history(folder: Path) -> None:
    """Renames ``config.yaml`` to ``config_<number>.yaml``, before that of a resumed run is written in its place."""
    current = folder / "config.yaml"
    if current.is_file():
        files = (folder / f"config_{number}.yaml" for number in itertools.count(1))
        current.rename(next(file for file in files if not file.exists()))


def changes(before: Path, now: Mapping[str, Any]) -> list[str]:
    """What a resolved config, in types of YAML, says otherwise than a run's ``config.yaml``, if it is there, by key."""
    if not before.is_file():
        return []
    old = dict(_flat(read_yaml(before)))
    new = dict(_flat(now))
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if key.startswith(_NOT_COMPARED) or old.get(key) == new.get(key):
            continue
        effect = "; it counts at the start of a run alone" if key in _OF_THE_START else ""
        lines.append(f"{key}: {_value(old, key)} before, {_value(new, key)} now{effect}")
    return lines


def _value(flat: Mapping[str, Any], key: str) -> Any:
    parts = key.split(".")
    above = (".".join(parts[:i]) for i in range(1, len(parts)))
    return flat.get(key, "the default" if any(name in flat and flat[name] is None for name in above) else "not there")


def _flat(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping) and config:
        for name, value in config.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, config
