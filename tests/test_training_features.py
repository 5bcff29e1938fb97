"""The cache of features: computed once, by one of two, gone on with, and bounded."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog_search.training.features import (
    CHUNK,
    FeatureCache,
    StoppedError,
    clear,
    n_arrays,
    size_bytes,
)


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


@pytest.mark.parametrize("at", [0, 500, 1199])
def test_damaged_chunk_is_computed_again_and_no_other(at: int, tmp_path: Path) -> None:
    said: list[str] = []
    cache = FeatureCache(tmp_path, 10**6, said.append)
    computed: list[int] = []
    before = np.array(cache.get({}, (200, 3), numbered(computed), go_on))
    (path,) = tmp_path.glob("*.f16")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    computed.clear()
    assert (cache.get({}, (200, 3), numbered(computed), go_on) == before).all()
    assert computed == [at // 6 // CHUNK * CHUNK]
    assert len(said) == 1
    assert said[0].startswith("features in the cache were damaged: computed again for ")


def test_features_that_were_cut_off_are_gone_on_with(tmp_path: Path) -> None:
    computed: list[int] = []
    cache = FeatureCache(tmp_path, 10**6)
    before = np.array(cache.get({}, (200, 3), numbered(computed), go_on))
    (path,) = tmp_path.glob("*.f16")
    path.write_bytes(path.read_bytes()[:700])
    computed.clear()
    assert (cache.get({}, (200, 3), numbered(computed), go_on) == before).all()
    assert computed == [64, 128, 192]


def test_damage_in_what_a_kill_left_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    with pytest.raises(StoppedError):
        cache.get({}, (200, 3), numbered([]), lambda done, total: done < 128)
    (partial,) = tmp_path.glob("*.partial")
    content = bytearray(partial.read_bytes())
    content[10] ^= 1
    partial.write_bytes(content)
    computed: list[int] = []
    got = cache.get({}, (200, 3), numbered(computed), go_on)
    assert computed == [0, 128, 192]
    assert (np.asarray(got)[:, 0] == np.arange(200)).all()


def test_features_without_checksums_are_from_before_there_were_any(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6)
    cache.get({}, (200, 3), numbered([]), go_on)
    next(tmp_path.glob("*.crc")).unlink()
    os.utime(next(tmp_path.glob("*.f16")), (1, 1))
    cache.get({}, (200, 3), pytest.fail, go_on)
    assert len(next(tmp_path.glob("*.crc")).read_bytes()) == 4 * 4


def test_features_in_use_are_neither_evicted_nor_cleared(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 4000)
    in_use = cache.get({"n": 0}, (500, 3), numbered([]), go_on)
    cache.get({"n": 1}, (500, 3), numbered([]), go_on)
    assert cache.has({"n": 0}, (500, 3))
    assert clear(tmp_path) == 1
    assert (in_use[:, 0] == np.arange(500)).all()
    del in_use
    assert clear(tmp_path) == 1
    assert size_bytes(tmp_path) == n_arrays(tmp_path) == 0


def test_clearing_beside_computing_takes_nothing_away(tmp_path: Path) -> None:
    cleared: list[int] = []

    def clear_all(done: int, total: int) -> bool:
        cleared.append(clear(tmp_path))
        return True

    got = FeatureCache(tmp_path, 10**6).get({}, (200, 3), numbered([]), clear_all)
    assert cleared == [0, 0, 0, 0]
    assert (np.asarray(got)[:, 0] == np.arange(200)).all()


def test_features_removed_by_hand_while_they_are_computed_are_made_again(tmp_path: Path) -> None:
    removed: list[int] = []

    def remove(done: int, total: int) -> bool:
        if not removed:
            removed.append(done)
            shutil.rmtree(tmp_path / "features")
        return True

    got = FeatureCache(tmp_path / "features", 10**6).get({}, (200, 3), numbered([]), remove)
    assert (np.asarray(got)[:, 0] == np.arange(200)).all()
