"""A study whose photos are taken away: they stay, are made again, or it says why it stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_study import assert_stores_agree, run

from catdog_search.data import cache, packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import EpochDone, Event, Notice, Planned, TrialEnded
from catdog_search.search.study import views
from catdog_search.tracking.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def packed(folder: Path) -> Callable[[], Dataset]:
    return lambda: packing.load(SyntheticSource(100), 8, folder, 10**9)


class Listener:
    """Does something at the first event of a kind, and keeps what is said."""

    def __init__(self, kind: type[Event], do: Callable[[], object], number: int = 0) -> None:
        self._kind, self._do, self._number = kind, do, number
        self.said: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.said.append(event.text)
        if isinstance(event, self._kind) and getattr(event, "number", 0) == self._number:
            self._kind = type(None)  # type: ignore[assignment]
            self._do()


def parent_status(state: StateFolder) -> str:
    view = views.load_view(state, "tiny")
    return str(Store.of(state).client().get_run(view.parent_run_id).info.status)


def flip(folder: Path) -> None:
    (pack,) = folder.glob("datasets/*/*.u8")
    content = bytearray(pack.read_bytes())
    content[1000] ^= 1
    pack.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "number", "damage"),
    [
        (Planned, 0, flip),  # before the worker has read them
        (TrialEnded, 0, shutil.rmtree),  # between trials
        (EpochDone, 1, shutil.rmtree),  # before the last trial's figures are drawn
    ],
)
def test_photos_that_the_cache_loses_are_made_again(
    kind: type[Event],
    number: int,
    damage: Callable[[Path], None],
    state: StateFolder,
    packed: Callable[[], Dataset],
    folder: Path,
) -> None:
    listener = Listener(kind, lambda: damage(folder), number)
    report = run(state, packed(), 2, listener=listener, remake=packed, drawn=True)
    assert (report.end, report.view.counts) == ("done", {"COMPLETE": 2})
    assert listener.said == ["the cache lost the photos at 8 px; they are made again"]
    assert parent_status(state) == "FINISHED"
    assert_stores_agree(state)
    client = Store.of(state).client()
    assert all(client.list_artifacts(row.run_id, "figures") for row in report.view.trials)


def test_photos_that_cannot_be_made_again_leave_the_study_to_be_gone_on_with(
    state: StateFolder, packed: Callable[[], Dataset], folder: Path
) -> None:
    def other() -> Dataset:
        return packing.load(SyntheticSource(80), 8, folder, 10**9)

    listener = Listener(TrialEnded, lambda: shutil.rmtree(folder))
    with pytest.raises(StateError, match="can't be made again: 80 drawn pictures holds other ones"):
        run(state, packed(), 3, listener=listener, remake=other)
    assert parent_status(state) == "FAILED"
    view = views.load_view(state, "tiny")
    assert "FAIL" not in view.counts
    assert_stores_agree(state)
    report = run(state, packed(), 3)
    assert report.view.counts == {"COMPLETE": 3}


def test_clearing_the_cache_beside_a_running_study_takes_nothing_away(
    state: StateFolder, packed: Callable[[], Dataset], folder: Path
) -> None:
    removed: list[object] = []
    listener = Listener(TrialEnded, lambda: removed.append(cache.evict(folder, 0)))
    report = run(state, packed(), 2, listener=listener)
    assert removed == [[]]
    assert report.view.counts == {"COMPLETE": 2}
    assert listener.said == []
