"""The model card: whole, readable, and one line for each thing that others named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from catdog_search.promotion import card

SECTIONS = (
    "Purpose",
    "Numbers",
    "Gates",
    "How it was chosen",
    "How sure it is",
    "What is neither",
    "Confusion and hardest photos",
    "Data",
    "Training",
    "Figures",
    "Limits of use",
    "Environment",
)
HOSTILE = "a|b*c_d`e\n# f\r\n- [g](http://h) <script>\x1b[31m\u202e~"


def facts(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": "catdog",
        "study": "tiny",
        "purpose": "A study for tests.",
        "class_names": ["cat", "dog"],
        "image_size": 64,
        "metric": "val_accuracy",
        "family": "cnn",
        "weights": None,
        "choice": {
            "form": "mean of probabilities",
            "single": 0.91,
            "together": {"mean of probabilities": 0.93, "mean of weights": None},
            "trials": [0, 2],
            "runs": ["f00d", "cafe"],
            "trained_in": "tiny.finalists",
            "name": "trial-0003-0123",
            "best_trial": 3,
            "params": {"n_blocks": 2, "dropout": 0.1},
            "noise": 0.004,
            "ties": ["trial-0003-0123", "trial-0007-4567"],
            "finalists": [
                {"name": "trial-0003-0123", "values": [0.9, 0.92], "mean": 0.91, "operations": 2e6},
                {
                    "name": "trial-0007-4567",
                    "values": [0.91, 0.92],
                    "mean": 0.915,
                    "operations": 9e6,
                },
                {
                    "name": "trial-0001-89ab",
                    "values": [0.8, 0.81],
                    "mean": 0.805,
                    "operations": 1e6,
                },
            ],
        },
        "fitted_on": "calibration",
        "guaranteed": True,
        "calibration": {
            "n": 300,
            "temperature": 1.25,
            "error_before": 0.06,
            "error_after": 0.02,
            "brier_before": 0.1,
            "brier_after": 0.09,
        },
        "threshold": 0.5,
        "costs": {},
        "error_rate": 0.01,
        "least_answered": 299,
        "band": {
            "low": 0.2,
            "high": 0.8,
            "coverage": 0.9,
            "answered": 270,
            "wrong": 1,
            "upper": 0.0098,
        },
        "covered": {"coverage": 0.88, "error": 0.012, "interval": [0.005, 0.03]},
        "neither": {
            "threshold": 3.25,
            "on_test": 0.011,
            "kinds": {"noise": {"n": 100, "auc": 0.99, "flagged": 0.97}},
        },
        "val": {"n": 290, "accuracy": 0.93, "interval": [0.9, 0.95]},
        "test": {
            "n": 300,
            "accuracy": 0.92,
            "interval": [0.885, 0.945],
            "scores": {"auc": 0.97, "loss": 0.2},
            "confusion": [[140, 10], [14, 136]],
            "hardest": [
                {"key": "cat.7.jpg", "label": "cat", "answer": "dog", "probability": 0.999}
            ],
        },
        "looks": {"text": "these photos have been looked at once, for this number", "known": [{}]},
        "gates": [
            {"name": "accuracy", "verdict": "passed", "text": "0.92 on 300 photos"},
            {"name": "latency", "verdict": "off", "text": "one photo takes 3.0 ms"},
        ],
        "data": {
            "kind": "folder",
            "said": "2000 photos",
            "digest": "0123abcd",
            "counts": {
                "train": {"cat": 500, "dog": 501},
                "test": {"cat": 150, "dog": 150},
                "calibration": {"cat": 149, "dog": 151},
            },
        },
        "at": "2026-01-02T03:04:05Z",
        "environment": {"python": "3.11", "keras": "3.0"},
    }
    return {**found, **changes}


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def test_card_has_every_section_and_its_numbers() -> None:
    text = card.write(facts())
    assert text.startswith("# catdog: cat or dog, from study tiny\n")
    assert text.endswith("- python: 3.11\n")
    found = sections(text)
    assert tuple(found) == SECTIONS
    assert "| test | 300 | 0.9200 | 0.8850 to 0.9450 | 1 |" in found["Numbers"]
    assert "| val, which chose | 290 | 0.9300 | 0.9000 to 0.9500 | many |" in found["Numbers"]
    assert "looked at once, for this number." in found["Numbers"]
    assert "| latency | not asked | one photo takes 3.0 ms |" in found["Gates"]
    chosen = found["How it was chosen"]
    assert "**mean of probabilities**, trials 0, 2 of tiny.finalists." in chosen
    assert "| trial-0003-0123 | 0.9000, 0.9200 | 0.9100 | 2 | chosen |" in chosen
    assert "| trial-0007-4567 | 0.9100, 0.9200 | 0.9150 | 9 | a tie |" in chosen
    assert "| trial-0001-89ab | 0.8000, 0.8100 | 0.8050 | 1 |  |" in chosen
    assert "noise (standard deviation) is 0.0040." in chosen
    assert "together, as mean of probabilities: 0.9300; the median seed 0.9100." in chosen
    sure = found["How sure it is"]
    assert "300 photos of calibration, which nothing was trained on or chosen by." in sure
    assert "| temperature | 1 | 1.250 |" in sure
    assert 'Between 0.2000 and 0.8000 it is "not sure": it answers 90.0%' in sure
    assert "On test as found: 88.0% answered, 1.20% of those wrongly (0.50% to 3.00%)." in sure
    assert "| noise | 0.990 | 97% |" in found["What is neither"]
    assert "Above 3.25 a photo is taken for neither class" in found["What is neither"]
    assert (
        "| true cat | 140 | 10 |\n| true dog | 14 | 136 |" in found["Confusion and hardest photos"]
    )
    assert "The photo of test that it is most wrong about:" in found["Confusion and hardest photos"]
    assert "- cat.7.jpg: cat, taken for dog with 0.999" in found["Confusion and hardest photos"]
    assert "| calibration | 149 | 151 |" in found["Data"]
    assert "none, it began at random" in found["Training"]
    assert "| dropout | 0.1 |\n| n\\_blocks | 2 |" in found["Training"]
    assert "drawn pictures" not in found["Limits of use"]


@pytest.mark.parametrize(
    ("changes", "section", "says"),
    [
        ({"test": None, "looks": None, "covered": None}, "Numbers", "Test was not looked at."),
        (
            {"test": None, "looks": None},
            "Confusion and hardest photos",
            "Test was not looked at.",
        ),
        ({"guaranteed": False}, "How sure it is", "which also chose: none of it is guaranteed."),
        ({"band": None}, "How sure it is", "(of the surest 299, none may be wrong)"),
        (
            {"neither": {"threshold": None, "on_test": None, "kinds": {}}},
            "What is neither",
            "are too few to say above what a photo is neither.",
        ),
        ({"weights": "imagenet"}, "Training", "under the MIT licence of Kaiming He et al."),
        ({"weights": "own.h5"}, "Training", "own.h5, of what licence, the file doesn't say"),
    ],
)
def test_card_says_what_is_not_known(changes: dict[str, Any], section: str, says: str) -> None:
    assert says in sections(card.write(facts(**changes)))[section]


def test_card_of_a_trial_as_it_is_has_no_finalists() -> None:
    chosen = {
        **facts()["choice"],
        "form": "as it is",
        "trials": [3],
        "runs": ["f00d"],
        "trained_in": "tiny",
        "finalists": [],
        "noise": None,
        "together": {"mean of probabilities": None, "mean of weights": None},
    }
    said = sections(card.write(facts(choice=chosen)))["How it was chosen"]
    assert said.split("\n\n") == [
        "\nWhat goes on: **as it is**, trial 3 of tiny.",
        "One seed's noise (standard deviation) is not known: nothing was trained on two seeds.\n",
    ]


def test_card_of_drawn_pictures_says_so_and_of_no_mistake_too() -> None:
    told = facts()
    told["data"]["kind"] = "synthetic"
    told["test"]["hardest"] = []
    found = sections(card.write(told))
    assert "says nothing of use about photos" in found["Limits of use"]
    assert "It is wrong about no photo of test." in found["Confusion and hardest photos"]


def hostile() -> dict[str, Any]:
    told = copy.deepcopy(facts(model=HOSTILE, study=HOSTILE, purpose=HOSTILE, weights=HOSTILE))
    names = [HOSTILE, f"{HOSTILE}2"]
    told["class_names"] = names
    told["choice"]["finalists"][0]["name"] = told["choice"]["name"] = HOSTILE
    told["choice"]["params"] = {HOSTILE: HOSTILE}
    told["test"]["hardest"][0] = {
        "key": HOSTILE,
        "label": names[0],
        "answer": names[1],
        "probability": 0.9,
    }
    told["looks"]["text"] = told["data"]["said"] = told["gates"][0]["text"] = HOSTILE
    told["data"]["counts"] = {"train": dict.fromkeys(names, 5)}
    told["environment"] = {HOSTILE: HOSTILE}
    return told


def test_names_of_others_stay_text_in_one_line() -> None:
    plain, text = card.write(facts(weights="w")), card.write(hostile())
    assert tuple(sections(text)) == SECTIONS
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script" not in text
    for line in text.splitlines():
        assert not line.startswith(("# f", "- \\[g"))
    # Rows of tables have as many cells as ever: what parts cells is spelled out.
    rows = [line for line in text.splitlines() if line.startswith("|")]
    columns = [line.replace("\\|", "").count("|") for line in rows]
    expected = [line.count("|") for line in plain.splitlines() if line.startswith("|")]
    few_params_and_counts = 3  # one param and two splits less
    assert len(columns) == len(expected) - few_params_and_counts
    assert set(columns) == set(expected)


def test_short_card_is_whole() -> None:
    text = card.write(facts())
    assert len(text) < card.LONGEST
    assert card.in_short(text) == text
    exact = text + "x" * (card.LONGEST - len(text))
    assert card.in_short(exact) == exact


@pytest.mark.parametrize("gate", [1500, 3000, 4000, 20_000])
def test_long_card_is_cut_before_a_section(gate: int) -> None:
    told = facts()
    told["gates"][0]["text"] = "x" * gate
    text = card.write(told)
    short = card.in_short(text + "y" * card.LONGEST)
    body, _, more = short.rpartition("\n\n")
    assert len(short) <= card.LONGEST
    assert text.startswith(body)
    assert text[len(body) :].lstrip("\n").startswith("## ")
    assert more == "The rest of the card: card.md of the version's source run.\n"


def test_card_without_room_for_a_section_is_cut_all_the_same() -> None:
    short = card.in_short(card.write(facts(model="m" * card.LONGEST)))
    assert short.strip().startswith("The rest of the card")
