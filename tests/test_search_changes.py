"""What may change in a study that has trials: the search goes on; what parts them is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import optuna
import pytest
from tiny_study import TABLE, assert_stores_agree, call, run

from catdog_search.cli.words import say_params
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import Notice
from catdog_search.search.study import changes, copies
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.storage import existing_studies, load_study
from catdog_search.search.study.views import load_view
from catdog_search.space import Range, Space
from catdog_search.study import studies
from catdog_search.tracking.store import Store
from catdog_search.tracking.vocabulary import OUTSIDE


def space(**more: Any) -> dict[str, Any]:
    """A change of the study's space."""
    changed = {**copy.deepcopy(TABLE["space"]), **more}
    return {"space": {name: spec for name, spec in changed.items() if spec is not None}}


def outcomes(state: StateFolder) -> list[Any]:
    trials = load_study(state, "tiny").get_trials()
    return [(t.number, t.state, t.values, t.user_attrs, t.datetime_start) for t in trials]


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": {"name": "random"}, "pruner": {"name": "median"}},
        space(dropout={"low": 0.0, "high": 0.8}),
        {**space(dropout={"low": 0.1, "high": 0.3}), "recipes": {}},
        space(filters={"choices": [16, 8, 4]}, n_blocks=2),
        {
            **space(dropout=None, batch_size={"choices": [16, 32]}),
            "recipes": {"plain": {"n_blocks": 2, "filters": 4, "batch_size": 16}},
        },
        {"training": {"epochs": 4}},
    ],
    ids=str,
)
def test_change_that_leaves_values_comparable_goes_on_as_the_same_study(
    change: dict[str, Any], pictures: Dataset, state: StateFolder
) -> None:
    run(state, pictures, 4)
    before, uid = outcomes(state), load_study(state, "tiny").user_attrs["study_uid"]
    notices: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    view = run(state, pictures, 6, table=change, listener=listen).view
    assert view.finished == 6
    assert outcomes(state)[:4] == before
    assert load_study(state, "tiny").user_attrs["study_uid"] == uid
    assert existing_studies(state) == ["tiny"]
    assert copies.lost(state, thorough=True) == []
    assert_stores_agree(state)
    assert any("changed since the study began" in text for text in notices)
    wanted = studies.parse({**TABLE, **change}, "f.toml")
    for trial in load_study(state, "tiny").get_trials()[4:]:
        assert wanted.space.contains(trial.user_attrs["params"])
    # Said once: it is what the study remembers now.
    notices.clear()
    run(state, pictures, 6, table=change, listener=listen)
    assert not any("changed" in text for text in notices)


def test_trials_of_a_narrowed_space_stay_and_are_named(
    pictures: Dataset, state: StateFolder
) -> None:
    run(state, pictures, 6)
    narrow = space(filters={"choices": [4]}, dropout={"low": 0.0, "high": 0.1})
    config = studies.parse({**TABLE, **narrow}, "f.toml")
    trials = load_study(state, "tiny").get_trials()
    left = changes.outside(trials, config)
    assert list(left) == [
        t.number
        for t in trials
        if t.user_attrs["params"]["filters"] != 4 or t.user_attrs["params"]["dropout"] > 0.1
    ]
    assert left
    notices: list[Any] = []
    run(state, pictures, 8, table=narrow, listener=notices.append)
    told = [n.text for n in notices if isinstance(n, Notice) and "outside of the space" in n.text]
    assert told == [f"outside of the space as it is now: trials {', '.join(map(str, left))}"]


@pytest.mark.parametrize(
    "change",
    [
        space(filters=4),
        space(filters={"choices": [4]}),
        # Left out, a param has its default, which is 0.5.
        {**space(dropout=None), "recipes": {}},
        {**space(dropout={"low": 0.0, "high": 0.5, "when": {"n_blocks": 1}}), "recipes": {}},
    ],
    ids=["fixed", "narrowed", "left out", "under a condition"],
)
def test_trials_outside_of_the_space_are_marked_until_it_has_them_again(
    change: dict[str, Any], pictures: Dataset, state: StateFolder
) -> None:
    run(state, pictures, 5)
    before = {row.number: row for row in load_view(state, "tiny").trials}
    runs = {row.run_id: row for row in run(state, pictures, 6, table=change).view.trials}
    out = [row for row in runs.values() if row.outside]
    assert out
    (name,) = {name for row in out for name in row.outside}
    for row in out:
        assert row.varied[name] == row.outside[name] == before[row.number].params[name]
        assert f"{name}={say_params({name: row.outside[name]}).partition('=')[2]}" in _shown(
            state, row.number
        )
    assert "(outside the space now)" in call("show", "tiny", "--state", str(state.root)).output
    client = Store.of(state).client()
    tags = {run_id: client.get_run(run_id).data.tags.get(OUTSIDE) for run_id in runs if run_id}
    said = {run_id: text and json.loads(text) for run_id, text in tags.items()}
    assert said == {row.run_id: dict(row.outside) or None for row in runs.values()}
    # As it was: nothing is outside any more.
    run(state, pictures, 7)
    assert not any(row.outside for row in load_view(state, "tiny").trials)
    assert all(OUTSIDE not in client.get_run(run_id).data.tags for run_id in runs if run_id)


def _shown(state: StateFolder, number: int) -> str:
    shown = call("show", "tiny", "--trial", str(number), "--state", str(state.root)).output
    return next(line for line in shown.splitlines() if line.startswith("outside the space"))


def test_sampler_models_old_and_new_trials_of_a_grown_range_together(
    pictures: Dataset, state: StateFolder
) -> None:
    run(state, pictures, 4)
    run(state, pictures, 5, table=space(dropout={"low": 0.0, "high": 0.8}))
    study = load_study(state, "tiny")
    joint = optuna.search_space.intersection_search_space(study.get_trials())
    assert set(joint) == {"n_blocks", "filters", "dropout"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metric": "val_loss", "direction": "minimize"}, "trials are ranked by it"),
        ({"training": {"epochs": 2}}, "training.epochs was 3, now 2"),
        ({"training": {"epochs": 3, "patience": 9}}, "training.patience"),
        ({"image_size": 10}, "image_size was 8, now 10"),
        ({"seed": 6}, "seeds of trials follow from it"),
        (
            {"recipes": {"plain": {**TABLE["recipes"]["plain"], "filters": 8}}},
            "recipes.plain.filters was 4, now 8",
        ),
        (
            {"training": {"epochs": 4}, **space(schedule="cosine")},
            "training.epochs was 3, now 4",
        ),
    ],
)
def test_change_that_parts_the_trials_is_refused_with_its_reason(
    change: dict[str, Any], told: str, pictures: Dataset, state: StateFolder
) -> None:
    run(state, pictures, 2)
    before = outcomes(state)
    with pytest.raises(StateError, match="study delete tiny") as caught:
        run(state, pictures, 3, table=change)
    assert told in str(caught.value)
    assert outcomes(state) == before


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("at", ["add_trial", "_swap", "_remove_left"])
def test_change_that_is_cut_off_is_made_by_the_next_start(
    at: str, pictures: Dataset, state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(state, pictures, 4)
    before = outcomes(state)
    wider = space(filters={"choices": [4, 8, 16]})
    calls = 0

    def killed(*_: object) -> None:
        nonlocal calls
        calls += 1
        if at != "_remove_left" or calls > 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study if at == "add_trial" else changes, at, killed)
        with pytest.raises(KilledError):
            run(state, pictures, 5, table=wider)
    assert existing_studies(state) == ["tiny"]
    assert outcomes(state) == before
    run(state, pictures, 5, table=wider)
    assert outcomes(state)[:4] == before
    assert made_with(load_study(state, "tiny"))["space"]["filters"]["choices"] == [4, 8, 16]
    assert optuna.get_all_study_names(load_study(state, "tiny")._storage) == ["tiny"]


@pytest.mark.parametrize(
    "reversed_", [Range(0.1, 0.9, None, True, reverse=True), Range(0.1, 0.8, 2.0, True)], ids=str
)
def test_copied_trial_says_its_param_as_the_sampler_knows_it(reversed_: Range) -> None:
    table = {**TABLE, "recipes": {}}
    config = studies.parse(table, "f.toml")
    config = config.model_copy(update={"space": Space({"dropout": reversed_})})
    value = (reversed_.values or (0.3,))[-1]
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"params": {"dropout": value}})
    copied = changes._under(trial, changes.distributions(config.space), config)
    assert copied.params == {"dropout": config.space.for_sampler("dropout", value)}
    assert config.space.of_sampler(copied.params) == {"dropout": value}
    distribution = copied.distributions["dropout"]
    assert distribution._contains(distribution.to_internal_repr(copied.params["dropout"]))
