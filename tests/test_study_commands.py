"""`study list|show|rename|delete`: a name is never burnt, and models outlive their study."""

from __future__ import annotations

import json

import pytest
from tiny_study import add_model, call, proposals, register_best, run

from catdog_search.data.dataset import Dataset
from catdog_search.places import StateFolder
from catdog_search.search.study import views
from catdog_search.search.study.storage import existing_studies
from catdog_search.tracking.registry import Registry
from catdog_search.tracking.store import Store


@pytest.fixture
def where(state: StateFolder) -> tuple[str, str]:
    return "--state", str(state.root)


def test_list_tells_each_study_with_its_trials_score_and_photos(
    pictures: Dataset, state: StateFolder, where: tuple[str, str]
) -> None:
    run(state, pictures, 2)
    line = call("study", "list", *where).stdout.splitlines()[1]
    assert line.split()[0] == "tiny"
    assert "2 COMPLETE" in line
    assert "100 drawn pictures" in line
    (row,) = json.loads(call("study", "list", "--json", *where).stdout)["studies"]
    assert row["counts"] == {"COMPLETE": 2}
    assert row["experiment"] == "tiny"


def test_delete_is_a_dry_run_until_it_is_meant(
    pictures: Dataset, state: StateFolder, where: tuple[str, str]
) -> None:
    run(state, pictures, 2)
    said = call("study", "delete", "tiny", *where).stdout
    assert "would delete study tiny: trials 2 COMPLETE" in said
    assert existing_studies(state) == ["tiny"]


def test_deleted_study_frees_its_name_and_leaves_registered_models(
    pictures: Dataset, state: StateFolder, where: tuple[str, str]
) -> None:
    view = run(state, pictures, 2).view
    for row in view.trials:
        add_model(state, view, row.number)
    register_best(state)
    call("study", "delete", "tiny", "--yes", *where)
    assert existing_studies(state) == []
    (model,) = Registry(Store.of(state)).models()
    assert model.record.champion == 1
    # Other photos under the same name, and neither the trash nor the copy is in the way.
    again = run(state, pictures, 2, table={"seed": 6}).view
    assert again.finished == 2
    call("doctor", *where)


def test_renamed_study_goes_on_under_its_new_name(
    pictures: Dataset, state: StateFolder, where: tuple[str, str]
) -> None:
    before = run(state, pictures, 2).view
    call("study", "rename", "tiny", "other", *where)
    assert existing_studies(state) == ["other"]
    experiments = [e.name for e in Store.of(state).client().search_experiments()]
    assert "other" in experiments
    assert "tiny" not in experiments
    again = run(state, pictures, 3, table={"name": "other"}).view
    assert proposals(again)[:2] == proposals(before)
    assert again.parent_run_id == before.parent_run_id
    assert run(state, pictures, 1).view.finished == 1  # the old name is free
    assert views.load_view(state, "other").finished == 3


@pytest.mark.parametrize("new", ["tiny", "a b", "", "-x", "x" * 65])
def test_name_that_cannot_be_is_refused_in_a_line(
    new: str, pictures: Dataset, state: StateFolder, where: tuple[str, str]
) -> None:
    run(state, pictures, 1)
    said = call("study", "rename", *where, "--", "tiny", new, code=1).stderr
    assert len(said.splitlines()) == 1
    assert existing_studies(state) == ["tiny"]


@pytest.mark.parametrize("words", [("delete", "no-study"), ("rename", "no-study", "other")])
def test_absent_study_is_one_line_and_makes_nothing(
    words: tuple[str, ...], state: StateFolder, where: tuple[str, str]
) -> None:
    assert "no study 'no-study'" in call("study", *words, *where, code=1).stderr
    assert not state.optuna_db.exists()
