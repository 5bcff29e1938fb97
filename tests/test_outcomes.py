"""How trials end: each ending means one thing to Optuna, to MLflow and to people."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from catdog_search.outcomes import OVER, TELLING, Ending, run_status


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_is_a_state_of_optunas_or_resumable(ending: Ending) -> None:
    assert ending.is_resumable == (ending.state is None)
    if ending.state is not None:
        assert TrialState[ending.state].is_finished()
        assert ending.run_status == run_status(ending.state)


def test_states_of_trials_that_are_over_are_optunas() -> None:
    assert set(OVER) == {state.name for state in TrialState if state.is_finished()}
    assert set(OVER) - set(TELLING) == {"FAIL"}


@pytest.mark.parametrize("ending", Ending)
def test_all_but_a_finished_trial_say_why_they_ended(ending: Ending) -> None:
    assert bool(ending.words) == (ending is not Ending.FINISHED)


def test_a_constraint_is_pruned_and_a_bug_alone_is_a_failure() -> None:
    assert {ending.state for ending in Ending if ending.is_constraint} == {"PRUNED"}
    failures = {ending for ending in Ending if ending.is_failure}
    assert failures - {ending for ending in Ending if ending.is_constraint} == {Ending.BUG}
    assert not Ending.PRUNED.is_failure


def test_what_earlier_versions_stored_is_read() -> None:
    assert Ending.read("told") is Ending.PRUNED
    assert all(Ending.read(ending.value) is ending for ending in Ending)


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(ValueError, match="'cosy' is no ending of a trial"):
        Ending.read("cosy")
