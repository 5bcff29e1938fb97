"""Photos that are neither class, and what a score makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from catdog_search.data import synthetic
from catdog_search.evaluation.negatives import CHOOSE, KINDS, REPORT, kinds_for, negatives
from catdog_search.evaluation.neither import found_of, threshold_at

N = 6


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([np.asarray(synthetic.draw(i % 2, i)) for i in range(4)])


@pytest.mark.parametrize("side", [8, 21, 96])
@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_whole_pictures_of_any_side(kind: str, side: int, photos: np.ndarray) -> None:
    made = negatives(kind, N, side, seed=3, photos=photos)
    assert made.shape == (N, side, side, 3)
    assert made.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_of_their_seed_and_number(kind: str, photos: np.ndarray) -> None:
    made = negatives(kind, N, 32, seed=3, photos=photos)
    assert np.array_equal(made[:2], negatives(kind, 2, 32, seed=3, photos=photos))
    assert len({picture.tobytes() for picture in made}) == N
    assert not np.array_equal(made, negatives(kind, N, 32, seed=4, photos=photos))


def test_negatives_are_the_same_in_another_process(in_fresh_python: Callable[[str], str]) -> None:
    kinds = [kind for kind in KINDS if KINDS[kind].draw is not None]
    code = (
        "import hashlib\n"
        "from catdog_search.evaluation.negatives import negatives\n"
        f"made = [negatives(kind, 3, 24, seed=1).tobytes() for kind in {kinds}]\n"
        "print(hashlib.sha256(b''.join(made)).hexdigest())"
    )
    assert in_fresh_python(code) == in_fresh_python(code)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"blank"}))
def test_negatives_show_something(kind: str, photos: np.ndarray) -> None:
    assert negatives(kind, N, 64, photos=photos).std(axis=(1, 2)).max(axis=1).min() > 2


def test_permuted_photos_keep_their_pixels_and_lose_their_places(photos: np.ndarray) -> None:
    made = negatives("permuted", 40, 96, photos=photos)
    pairs = [(made[i], photos[i % len(photos)]) for i in range(len(made))]
    assert not any(np.array_equal(picture, photo) for picture, photo in pairs)
    same = [np.array_equal(np.sort(p.ravel()), np.sort(q.ravel())) for p, q in pairs]
    # Of 4 to 8 squares a side, 4, 6 and 8 fill 96 pixels.
    assert 15 < sum(same) < 35


@pytest.mark.parametrize("photos", [None, np.empty((0, 8, 8, 3), np.uint8)])
def test_permuted_without_photos_is_refused(photos: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="permuted: are made of photos"):
        negatives("permuted", 1, 8, photos=photos)


def test_kinds_choose_or_report_and_none_does_both() -> None:
    chosen, reported = kinds_for(CHOOSE), kinds_for(REPORT)
    assert sorted([*chosen, *reported]) == sorted(KINDS)
    assert len(chosen) == len(reported)
    # What a model of the built-in data is told by must be no animal of the built-in data.
    assert "drawn" not in reported


@pytest.mark.parametrize(("n", "above"), [(99, 0), (199, 1), (300, 2), (1000, 9)])
def test_threshold_leaves_at_most_the_share_above(n: int, above: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    assert int(np.sum(scores > threshold_at(scores, 0.01))) == above


def test_threshold_holds_for_further_photos_on_average() -> None:
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(400):
        threshold = threshold_at(rng.lognormal(size=300), 0.05)
        flagged.append(np.mean(rng.lognormal(size=300) > threshold))
    assert 0.043 < np.mean(flagged) <= 0.0505


def test_threshold_with_ties_flags_none_of_them() -> None:
    assert threshold_at(np.ones(500)) == 1.0


def test_threshold_of_too_few_photos_says_how_many_it_takes() -> None:
    with pytest.raises(ValueError, match=r"98 photos say nothing of 0\.01 .* takes 99"):
        threshold_at(np.arange(98.0), 0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_threshold_of_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        threshold_at(np.array([*range(200), bad]))


def test_found_says_area_and_share() -> None:
    found = found_of("blank", np.array([0.0, 1.0, 2.0]), np.array([1.5, 3.0]), threshold=2.0)
    assert (found.kind, found.n, found.flagged) == ("blank", 2, 0.5)
    assert found.auc == pytest.approx(5 / 6)
