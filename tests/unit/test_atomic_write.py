"""The writer of files that are whole at every moment."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from umedpt_lightning.io.atomic import atomic_write, remove_leftovers, write_text


def test_a_file_takes_its_place_when_it_is_finished_with_its_suffix_and_the_usual_rights(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.nii.gz"
    with atomic_write(file) as unfinished:
        assert unfinished.name.endswith(".nii.gz")
        assert not file.exists()
        assert not unfinished.exists()
        unfinished.write_text("x")
        unfinished.chmod(0o600)
    assert file.read_text() == "x"
    assert [*file.parent.iterdir()] == [file]
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("no"), OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def interrupted() -> None:
        with atomic_write(file) as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_on_the_disk_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    file, seen = tmp_path / "a.txt", []

    def fsync(descriptor: int) -> None:
        at = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((at == tmp_path, at.read_text() if at.is_file() else "", file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(file, "all of it", durable)
    assert seen == ([(False, "all of it", False), (True, "", True)] if durable else [])


def test_a_file_that_does_not_reach_the_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_text(file, "new", durable=True)
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_write(file) as first, atomic_write(file) as second:  # in one process, and so in two
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first", "the one that ended last"
    texts = [str(i) * 100_000 for i in range(4)]
    writers = [threading.Thread(target=lambda text=text: [write_text(file, text) for _ in range(20)]) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert file.read_text() in ["first", *texts]
    assert [*tmp_path.iterdir()] == [file]


def test_a_process_that_is_killed_leaves_the_old_file_and_what_it_left_is_removed_later(tmp_path: Path) -> None:
    file = tmp_path / "below" / "a.txt"
    write_text(file, "old")
    child = os.fork()
    if not child:
        with atomic_write(file) as unfinished:
            unfinished.write_text("ne")
            os._exit(1)
    os.waitpid(child, 0)
    assert file.read_text() == "old"
    (left,) = {*file.parent.iterdir()} - {file}
    remove_leftovers(tmp_path)
    assert left.exists(), "its process may live, as far as anyone can tell"
    os.utime(left, (time.time() - 4000,) * 2)
    os.utime(file, (0, 0))
    remove_leftovers(tmp_path)
    assert [*file.parent.iterdir()] == [file]


def test_line_ends_are_written_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "a,b\r\nä,2\n")
    assert (tmp_path / "a.csv").read_bytes() == "a,b\r\nä,2\n".encode()
