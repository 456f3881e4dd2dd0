"""Checkpoint files that are whole or not there, and that are read without running code from them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from umedpt_lightning.io.atomic import atomic_write, remove_leftovers, synchronise

#: The newest state of a run, and the one before it.
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what to do."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only when the new one is on the disk, and loads tensors and plain values only.

    A file is written beside its place, synchronised, and then renamed, so that at every instant a whole file is there.
    Of ``last.ckpt`` the one before is kept as ``previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Raises:
            CheckpointError: The disk is full, or cannot be written to, or what a class of one's own keeps cannot be
                loaded again; what was there before is still there.
        """
        if "://" in str(path):  # object stores replace whole objects
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        size = 0
        try:
            remove_leftovers(file.parent)  # each may be as large as a checkpoint
            with atomic_write(file, durable=True) as unfinished, unfinished.open("wb") as stream:
                try:
                    torch.save(checkpoint, stream)
                finally:
                    size = stream.tell()
                stream.flush()
                synchronise(unfinished)  # a full disk may be told only here, and then the one before stays as it is
                _hold_plain(checkpoint, file, unfinished)
                if file.name == LAST and file.exists():
                    _copy(file, file.with_name(PREVIOUS))
        except CheckpointError:
            raise
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise CheckpointError(_not_written(file, size, error)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, whatever is asked for as `weights_only`, without unpickling objects.

        Raises:
            CheckpointError: The file is damaged, or holds objects that could run code when they are loaded.
        """
        try:
            return super().load_checkpoint(path, map_location or _in_place, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            if wrong := damage(Path(path)):
                raise CheckpointError(f"The checkpoint {path} is damaged: {wrong}. Use another one.") from error
            if not isinstance(error, pickle.UnpicklingError):
                raise
            raise CheckpointError(
                f"The checkpoint {path} is not loaded: it holds more than tensors and plain values, and loading that "
                "can run code of whoever made the file. Use one that `umedpt fit` has written."
            ) from error


def _hold_plain(checkpoint: dict[str, Any], file: Path, written: Path) -> None:
    """Holds that what was written can be loaded, while the run is young: later all of it would be lost."""
    if objects := _objects(written):
        parts = {(key, name): part for key, of in checkpoint.items() for name, part in _parts(of)}
        found = [".".join(filter(None, path)) for path, part in parts.items() if _is_saved_with_objects(part)]
        raise CheckpointError(
            f"The checkpoint {file} is not written, since it could not be loaded again: {', '.join(found)} holds more "
            f"than tensors and plain values ({', '.join(objects)}). Let the `state_dict` of that class give plain "
            "ones: float(x) or int(x) for a number of NumPy, torch.from_numpy(x) for an array, list(x) or dict(x) for "
            "what is like them."
        )


def _objects(saved: Path | io.BytesIO) -> list[str]:
    """Classes and functions that keep a saved file from being loaded, without loading it: that takes longer."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(saved))
    except pickle.UnpicklingError:
        return ["an object"]


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    return [(str(name), part) for name, part in value.items()] if isinstance(value, dict) else [("", value)]


def _is_saved_with_objects(value: Any) -> bool:
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return bool(_objects(stream))


def damage(file: Path) -> str | None:
    """What is wrong with a checkpoint file; None if it is as it was written.

    Every byte is read: each record of the file carries a checksum.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if (record := archive.testzip()) is not None:
                return f"the checksum of {record} does not match"
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return None  # whole, but with objects in it: loading it says so
    except Exception as error:  # a flipped bit may lead anywhere
        return _line(error)
    return None


def intact(files: list[Path], tell: Callable[[str], None]) -> Path:
    """The first of several checkpoints that is whole.

    Args:
        files: At least one that exists, in order of preference.
        tell: Is given a message where the first is not the one that is taken.

    Raises:
        CheckpointError: None of them is.
    """
    found: dict[Path, str] = {}
    for file in files:
        wrong = damage(file)
        if wrong is None:
            if found:
                tell(f"{_list(found)} Going on from the one before: {file}.")
            return file
        found[file] = wrong
    raise CheckpointError(f"{_list(found)} Give another one by --ckpt_path, or begin anew in another folder.")


def _list(found: dict[Path, str]) -> str:
    return " ".join(f"The checkpoint {file} is damaged: {wrong}." for file, wrong in found.items())


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _in_place(storage: Any, location: str) -> Any:
    """Leaves tensors in main memory; whoever takes them moves them."""
    return storage


def _copy(file: Path, place: Path) -> None:
    """Puts the same content in another place, without a moment in which that holds less."""
    with atomic_write(place) as unfinished:
        try:
            os.link(file, unfinished)
        except OSError:  # this file system has no links
            shutil.copyfile(file, unfinished)


def _not_written(file: Path, size: int, error: BaseException) -> str:
    free = shutil.disk_usage(file.parent).free >> 20 if file.parent.is_dir() else 0
    before = "the one before is still there" if file.exists() else "there was none before"
    return (
        f"The checkpoint {file} cannot be written after {size >> 20} MiB ({_line(error)}); {before}. {free} MiB are "
        "free: make room, and go on by the same command with --ckpt_path last, or give another folder by --run."
    )
