"""Worker threads: results in order, an end for all when one fails, threads shared out and given back."""

import threading
import time

import pytest
import torch

from hatlab.training.grouping import Stopped, in_worker_threads


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_work():
    def piece(k):
        def work(check):
            check()
            time.sleep(0.02 * (5 - k))
            return k

        return work

    assert in_worker_threads([piece(k) for k in range(5)], 2) == list(range(5))


def test_lanes_go_on_at_once_and_share_the_threads():
    meeting = threading.Barrier(2, timeout=20)

    def work(check):
        meeting.wait()
        return torch.get_num_threads()

    assert in_worker_threads([work, work], 2) == [2, 2]


def test_an_error_ends_the_other_lanes_and_what_waits_is_not_started():
    ends, late = [], []

    def endless(check):
        try:
            while True:
                check()
                time.sleep(0.001)
        except Stopped:
            ends.append("stopped")
            raise

    def failing(check):
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        in_worker_threads([endless, failing, lambda check: late.append(1)], 2)
    assert ends == ["stopped"]
    assert late in ([], [1])  # it may have begun in the moment before the error was seen


def test_ctrl_c_ends_all_worker_threads(monkeypatch):
    ended = threading.Event()

    def endless(check):
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            ended.set()

    from hatlab.training import grouping

    original = grouping.wait

    def interrupted(futures, **how):
        if how:
            raise KeyboardInterrupt
        return original(futures)

    monkeypatch.setattr(grouping, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_worker_threads([endless, endless], 2)
    assert ended.is_set()
