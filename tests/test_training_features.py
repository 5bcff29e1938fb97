"""The cache of features: computed once, by one of two, gone on with, and bounded."""

from __future__ import annotations

import multiprocessing as mp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog_search.training.features import FeatureCache, StoppedError, clear, size_bytes


def go_on(done: int, total: int) -> bool:
    return True


def numbered(computed: list[int]) -> Any:
    def compute(rows: slice) -> Any:
        computed.append(rows.start)
        return np.arange(rows.start, rows.stop)[:, None] * np.ones((1, 3))

    return compute


def test_features_are_computed_once_and_gone_on_with_after_a_stop(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    computed: list[int] = []
    with pytest.raises(StoppedError):
        cache.get({"a": 1}, (200, 3), numbered(computed), lambda done, total: done < 128)
    partial = next(tmp_path.glob("*.partial"))
    with partial.open("ab") as file:  # a kill in the middle of a chunk
        file.write(b"half")
    got = cache.get({"a": 1}, (200, 3), numbered(computed), go_on)
    assert (np.asarray(got)[:, 0] == np.arange(200)).all()
    assert computed == [0, 64, 128, 192]
    cache.get({"a": 1}, (200, 3), numbered(computed), go_on)
    assert len(computed) == 4
    cache.get({"a": 2}, (200, 3), numbered(computed), go_on)
    assert len(computed) == 8


def test_features_stay_within_their_limit_the_oldest_go_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 7500)
    for number in range(4):
        cache.get({"n": number}, (500, 3), numbered([]), go_on)
    assert size_bytes(tmp_path) == 6000
    assert [cache.has({"n": n}, (500, 3)) for n in range(4)] == [False, False, True, True]
    assert clear(tmp_path) == 2
    assert size_bytes(tmp_path) == 0


def test_numbers_beyond_half_precision_are_cut_off_at_its_largest(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    got = cache.get({}, (2, 1), lambda rows: np.array([[1e6], [-1e6]]), go_on)
    assert np.isfinite(np.asarray(got, np.float32)).all()


def _wanted_by_two(folder: str, answers: Any) -> None:
    calls: list[int] = []
    got = FeatureCache(Path(folder), 10**6).get({"shared": True}, (300, 3), numbered(calls), go_on)
    answers.put((len(calls), float(np.asarray(got, np.float64).sum())))


def test_features_are_computed_by_one_of_two_processes(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    answers = context.Queue()
    both = [context.Process(target=_wanted_by_two, args=(str(tmp_path), answers)) for _ in "ab"]
    for process in both:
        process.start()
    found = sorted(answers.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert [calls for calls, _ in found] == [0, 5]
    assert found[0][1] == found[1][1] == 3 * sum(range(300))
