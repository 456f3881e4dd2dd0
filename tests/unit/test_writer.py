"""What is written in the background is written in order, and what goes wrong there is told."""

from __future__ import annotations

import threading
import time

import pytest

from umedpt_lightning.inference.pool import BackgroundWriter


def test_all_is_done_in_order_when_the_block_is_left() -> None:
    done: list[int] = []
    with BackgroundWriter() as write:
        for i in range(50):
            write(lambda i=i: (time.sleep(0.001), done.append(i)))
    assert done == list(range(50))


def test_it_is_another_thread_that_writes() -> None:
    threads: list[int] = []
    with BackgroundWriter() as write:
        write(lambda: threads.append(threading.get_ident()))
    assert threads != [threading.get_ident()]


def test_no_more_than_a_few_wait() -> None:
    gate, called = threading.Event(), 0
    with BackgroundWriter() as write:
        threading.Timer(0.2, gate.set).start()
        for _ in range(30):
            if not gate.is_set():
                called += 1
            write(gate.wait)
    assert called < 15


def fail() -> None:
    raise OSError("the disk is full")


def test_an_error_is_raised_at_the_end_or_before() -> None:
    with pytest.raises(OSError, match="full"), BackgroundWriter() as write:
        write(fail)
    calls = 0
    with pytest.raises(OSError, match="full"), BackgroundWriter() as write:  # noqa: PT012  # it is a later line
        write(fail)
        for _ in range(1000):
            time.sleep(0.001)
            write(lambda: None)
            calls += 1
    assert calls < 1000


def test_an_error_in_the_block_is_the_one_that_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as write:  # noqa: PT012
        write(fail)
        raise KeyboardInterrupt
