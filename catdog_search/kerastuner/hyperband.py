"""Write and read Hyperband's brackets: which trials continue which others.

In KerasTuner a promoted trial is repeated with the same params and more epochs. Its oracle keeps
the brackets in its own state; here each trial stores its rung, and the oracle's state is rebuilt
from those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from catdog_search.space import Params


@dataclass(frozen=True)
class Rung:
    """Where a trial stands in Hyperband.

    Attributes:
        bracket: Index of its bracket, from 0, in the order in which they began.
        round: Index of its round in the bracket, from 0.
        first: Number of the trial that began with these params; its own in round 0.
        past: Number of the trial that it continues; None in round 0.
        epochs: Epoch that it trains to, from 1.
    """

    bracket: int
    round: int
    first: int
    past: int | None
    epochs: int


@dataclass(frozen=True)
class Told:
    """One trial of the study, as an oracle is told of it.

    Attributes:
        number: Trial's number, from 0.
        params: All its active params.
        status: `COMPLETED` with a score, `FAILED` if its params are infeasible or it broke,
            `RUNNING` if it has no outcome yet.
        score: Objective's value; None unless COMPLETED.
        rung: Where it stands in Hyperband; None if it isn't part of it.
    """

    number: int
    params: Params
    status: Literal["COMPLETED", "FAILED", "RUNNING"]
    score: float | None = None
    rung: Rung | None = None


def tell_brackets(oracle: Any, told: Sequence[Told]) -> list[dict[str, Any]]:
    """Give a fresh HyperbandOracle the brackets that these trials belong to; returns them."""
    state = oracle.get_state()
    kinds = state["current_bracket"] + 1  # it begins with the largest
    standing = [(trial, trial.rung) for trial in told if trial.rung]
    last = max((rung.bracket for _, rung in standing), default=0)
    brackets = [_bracket(kinds - 1 - begun % kinds) for begun in range(last + 1)]
    for trial, rung in standing:
        past = None if rung.past is None else str(rung.past)
        entry = {"past_id": past, "id": str(trial.number)}
        brackets[rung.bracket]["rounds"][rung.round].append(entry)
    state["brackets"] = list(brackets)
    state["current_bracket"], state["current_iteration"] = kinds - 1 - last % kinds, last // kinds
    oracle.set_state(state)
    return brackets


def _bracket(kind: int) -> dict[str, Any]:
    return {"bracket_num": kind, "rounds": [[] for _ in range(kind + 1)]}


def rung_of(
    oracle: Any,
    before: Sequence[Mapping[str, Any]],
    number: int,
    told: Sequence[Told],
    values: Mapping[str, Any],
) -> Rung:
    """Where the trial that the oracle has just proposed stands.

    Args:
        oracle: HyperbandOracle that was asked.
        before: Its brackets before it was asked; it modifies these in place.
        number: Trial's number.
        told: The other trials.
        values: Values that the oracle answered with.
    """
    new = [b for b in oracle.get_state()["brackets"] if all(b is not known for known in before)]
    for begun, bracket in enumerate([*before, *new]):
        for place, entries in enumerate(bracket["rounds"]):
            for entry in entries:
                if entry["id"] == str(number):
                    past = None if entry["past_id"] is None else int(entry["past_id"])
                    rungs = {trial.number: trial.rung for trial in told if trial.rung}
                    first = number if past is None else rungs[past].first
                    return Rung(begun, place, first, past, int(values["tuner/epochs"]))
    raise AssertionError("an oracle enters what it proposes into a bracket")


def needed(oracle: Any, told: Sequence[Told]) -> set[int]:
    """Numbers of the trials that others may still continue, or are continuing.

    Args:
        oracle: A fresh HyperbandOracle.
        told: All trials.
    """
    brackets = tell_brackets(oracle, told)
    running = {trial.number for trial in told if trial.status == "RUNNING"}
    found = {trial.rung.past for trial in told if trial.rung and trial.number in running}
    for trial in told:
        if trial.rung is None or trial.status != "COMPLETED":
            continue
        bracket, following = brackets[trial.rung.bracket], trial.rung.round + 1
        if following == len(bracket["rounds"]):
            continue
        entries = bracket["rounds"][following]
        taken = any(entry["past_id"] == str(trial.number) for entry in entries)
        if not taken and len(entries) < oracle._get_size(bracket["bracket_num"], following):
            found.add(trial.number)
    return {number for number in found if number is not None}
