"""Faults that are gathered and raised together."""

from __future__ import annotations

import pickle

import pytest

from umedpt_lightning.data.formats.faults import (
    Collector,
    FaultsError,
    MissingFilesError,
    each_of,
    for_all,
    raise_all,
)


def test_one_error_stays_as_it_is_and_none_is_none() -> None:
    raise_all([])
    for error in (ValueError("a"), FileNotFoundError("b"), PermissionError(13, "no", "c.png")):
        with pytest.raises(type(error)) as found:
            raise_all([error])
        assert found.value is error
        assert each_of(error) == [error]


def test_many_are_counted_told_in_part_and_kept_whole() -> None:
    inner = FaultsError("2 boxes", [ValueError("box 1"), ValueError("box 2")])
    errors = [inner, *(ValueError(f"row {i}") for i in range(7))]
    with pytest.raises(FaultsError) as found:
        raise_all(errors)
    assert list(map(str, each_of(found.value))) == ["box 1", "box 2", *(f"row {i}" for i in range(7))]
    assert str(found.value) == "9 faults; `umedpt data check` names all:\n2 boxes\nrow 0\nrow 1"
    with pytest.raises(FaultsError, match=r"^2 faults:\nrow 0\nrow 1$"):
        raise_all(errors[1:3])


def test_files_that_are_missing_are_such_an_error_only_without_others() -> None:
    missing = [
        FileNotFoundError("a.png"),
        MissingFilesError("b and c", [FileNotFoundError("b"), FileNotFoundError("c")]),
    ]
    with pytest.raises(FileNotFoundError) as found:
        raise_all(missing)
    assert isinstance(found.value, ValueError)
    assert list(map(str, each_of(found.value))) == ["a.png", "b", "c"]
    with pytest.raises(FaultsError) as mixed:
        raise_all([*missing, ValueError("d")])
    assert not isinstance(mixed.value, FileNotFoundError)
    again = pickle.loads(pickle.dumps(found.value))
    assert (type(again), str(again)) == (MissingFilesError, str(found.value))
    assert list(map(str, each_of(again))) == ["a.png", "b", "c"]


def test_a_collector_goes_on_after_faults_but_not_after_mistakes_of_the_code() -> None:
    faults, done = Collector(), []
    with faults:
        raise ValueError("a")
    with faults:
        done.append(1)
    assert faults.good(lambda x: 1 // (2 - x) if x < 3 else int("x"), [0, 1, 3]) == [0, 1]
    with pytest.raises(FaultsError, match=r"(?s)2 faults:\na\n.*'x'"):
        faults.raise_found()
    assert done == [1]
    with pytest.raises(ZeroDivisionError), faults:
        done.append(1 // 0)
    with pytest.raises(ImportError):
        for_all(__import__, ["sys", "no_such_module"])
    assert for_all(int, ["1", "2"]) == [1, 2]
