"""Checkpoint files: whole or not there, damage found, no code run."""

from __future__ import annotations

import errno
import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from umedpt_lightning.training.checkpoints import AtomicCheckpointIO, CheckpointError, damage, intact

CONTENT = {"state_dict": {"w": torch.arange(500.0), "b": torch.ones(3)}, "step": 7, "names": ["a", "b"]}


def save(path: Path, step: int = 7) -> Path:
    AtomicCheckpointIO().save_checkpoint(CONTENT | {"step": step}, path)
    return path


def step_of(path: Path) -> int:
    step: int = AtomicCheckpointIO().load_checkpoint(path)["step"]
    return step


def same(one: Any, other: Any) -> bool:
    weights = all(torch.equal(one["state_dict"][k], v) for k, v in other["state_dict"].items())
    return weights and (one["step"], one["names"]) == (other["step"], other["names"])


def test_a_checkpoint_comes_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = save(tmp_path / "new" / "best.ckpt")
    assert same(AtomicCheckpointIO().load_checkpoint(file), CONTENT)
    assert damage(file) is None
    assert [f.name for f in file.parent.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_of_the_last_checkpoint_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for step in (1, 2, 3):
        save(tmp_path / "last.ckpt", step)
        save(tmp_path / "best.ckpt", step)
    assert step_of(tmp_path / "last.ckpt") == 3
    assert step_of(tmp_path / "previous.ckpt") == 2
    assert {f.name for f in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt", "best.ckpt"}


def test_a_checkpoint_and_its_folder_are_on_the_disk_when_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised: list[Path] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synchronised.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    save(tmp_path / "last.ckpt", 1)
    monkeypatch.setattr(os, "fsync", noting)
    save(tmp_path / "last.ckpt", 2)
    assert synchronised[0].name.endswith(".last.ckpt")
    assert synchronised[-1] == tmp_path


def test_a_disk_that_is_full_at_the_last_moment_leaves_both_checkpoints_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path / "last.ckpt", step)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="make room"):
        save(tmp_path / "last.ckpt", 3)
    assert [step_of(tmp_path / name) for name in ("previous.ckpt", "last.ckpt")] == [1, 2]


def test_a_process_killed_at_any_system_call_of_a_save_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    calls = [(os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"), (torch, "save")]
    for place, name in calls:
        for count in (1, 2, 3):
            folder = tmp_path / f"{name}{count}"
            save(folder / "last.ckpt", 1)
            save(folder / "last.ckpt", 2)
            child = os.fork()
            if not child:  # dies without any clean-up before the call
                original, left = getattr(place, name), [count]

                def dying(*args: Any, original: Any = original, left: list[int] = left, **options: Any) -> Any:
                    left[0] -= 1
                    if not left[0]:
                        os._exit(1)
                    return original(*args, **options)

                setattr(place, name, dying)
                save(folder / "last.ckpt", 3)
                os._exit(0)
            os.waitpid(child, 0)
            assert damage(folder / "last.ckpt") is None
            assert step_of(folder / "last.ckpt") in (2, 3)
            assert step_of(folder / "previous.ckpt") in (1, 2)
            for left in folder.glob(".*"):
                os.utime(left, (0, 0))
            save(folder / "last.ckpt", 4)  # whatever was left is no hindrance, and goes when it is old
            assert {f.name for f in folder.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path: Path) -> None:
    file = save(tmp_path / "last.ckpt", 1)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # where files are small, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(1_000_000)}, file)
        except CheckpointError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    message = os.read(reader, 10_000).decode()
    for part in (str(file), "MiB are free", "--ckpt_path last", "the one before is still there"):
        assert part in message
    assert step_of(file) == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/0")],
)
def test_an_error_while_the_file_is_written_is_told_with_the_file_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    file = save(tmp_path / "best.ckpt", 1)

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(CheckpointError, match=r"best\.ckpt cannot be written.*MiB are free.*make room"):
        save(file, 2)
    monkeypatch.undo()
    assert step_of(file) == 1
    assert [f.name for f in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_file_cut_anywhere_is_found_damaged(tmp_path: Path) -> None:
    content = save(tmp_path / "whole.ckpt").read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 100, len(content) - 1):
        (tmp_path / "cut.ckpt").write_bytes(content[:length])
        assert damage(tmp_path / "cut.ckpt"), length
        with pytest.raises(CheckpointError, match=r"cut\.ckpt is damaged.*Use another"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "cut.ckpt")


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    content = save(tmp_path / "whole.ckpt").read_bytes()
    file, rng, found = tmp_path / "flipped.ckpt", random.Random(0), 0
    for _ in range(400):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
        if damage(file):
            found += 1
        else:
            assert same(AtomicCheckpointIO().load_checkpoint(file), CONTENT), place
    assert found > 100


def test_of_several_checkpoints_the_first_whole_one_is_taken_with_a_message(tmp_path: Path) -> None:
    last, previous = save(tmp_path / "last.ckpt", 2), save(tmp_path / "previous.ckpt", 1)
    told: list[str] = []
    assert intact([last, previous], told.append) == last
    assert told == []
    last.write_bytes(last.read_bytes()[:-50])
    assert intact([last, previous], told.append) == previous
    assert str(last) in told[0]
    assert f"the one before: {previous}" in told[0]
    previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged.*previous\.ckpt is damaged.*begin anew"):
        intact([last, previous], told.append)


class _Attack:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("weights_only", [None, False, True])
def test_loading_runs_no_code_whatever_is_asked_for(tmp_path: Path, weights_only: bool | None) -> None:
    harm = tmp_path / "harm"
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "callbacks": _Attack(harm)}, file)
    assert damage(file) is None, "it is whole; that it is refused is another matter"
    with pytest.raises(CheckpointError, match=r"last\.ckpt is not loaded.*can run code.*umedpt fit"):
        AtomicCheckpointIO().load_checkpoint(file, weights_only=weights_only)
    assert not harm.exists()
    torch.load(file, weights_only=False)
    assert harm.exists(), "the attack is a real one"
