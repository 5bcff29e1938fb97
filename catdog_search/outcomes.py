"""How a trial ended: the one place that knows what each ending means to the stores and to users.

Optuna knows COMPLETE, PRUNED and FAIL; more than one ending shares a state there.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

State = Literal["COMPLETE", "PRUNED", "FAIL"]
RunStatus = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]

# State shown for a trial that a later call resumes.
INTERRUPTED = "interrupted"
# Optuna's states of a finished trial.
OVER: tuple[State, ...] = ("COMPLETE", "PRUNED", "FAIL")
# Those of a trial that says something about its params.
TELLING: tuple[State, ...] = ("COMPLETE", "PRUNED")
# Spellings that earlier versions wrote to the stores.
_EARLIER = {"told": "pruned"}


class Ending(StrEnum):
    """How a trial ended; the value is what the stores hold.

    Attributes:
        state: Optuna's state; None where the trial stays RUNNING, for a later call to resume.
        is_constraint: Whether the sampler learns from it as a violated constraint. Such a trial is
            PRUNED: a FAIL would be invisible to the sampler.
        words: Why it ended early, for display; empty where it didn't.
    """

    state: State | None
    is_constraint: bool
    words: str

    def __new__(
        cls, value: str, state: State | None, words: str = "", constraint: bool = False
    ) -> Ending:
        """A member with its attributes."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.state, member.words, member.is_constraint = state, words, constraint
        return member

    FINISHED = "finished", "COMPLETE"
    PRUNED = "pruned", "PRUNED", "by the pruner"
    DIVERGED = "diverged", "PRUNED", "diverged", True
    OOM = "oom", "PRUNED", "out of memory", True
    TOO_LARGE = "too_large", "PRUNED", "too large", True  # by estimate, never trained
    INFEASIBLE = "infeasible", "PRUNED", "infeasible", True  # according to the code that builds it
    CRASHED = "crashed", "PRUNED", "its workers died", True
    BUG = "bug", "FAIL", "by an error"
    INTERRUPTED = "interrupted", None, "interrupted"
    BLOCKED = "blocked", None, "by something around it"

    @classmethod
    def read(cls, stored: str) -> Ending:
        """The ending that a store holds, possibly written by an earlier version.

        Raises:
            ValueError: No version writes this.
        """
        wanted = _EARLIER.get(stored, stored)
        for ending in cls:
            if ending.value == wanted:
                return ending
        raise ValueError(f"{stored!r} is no ending of a trial")

    @property
    def is_resumable(self) -> bool:
        """Whether the trial stays as it is, for a later call to resume."""
        return self.state is None

    @property
    def is_failure(self) -> bool:
        """Whether it has no result, because of its params or an error."""
        return self.is_constraint or self.state == "FAIL"

    @property
    def stops_study(self) -> bool:
        """Whether the study stops with it, since the next trial would fail in the same way."""
        return self in (Ending.BUG, Ending.BLOCKED)

    @property
    def shown(self) -> str:
        """Optuna's state, or `interrupted`."""
        return self.state or INTERRUPTED

    @property
    def run_status(self) -> RunStatus:
        """Status of the trial's run in MLflow."""
        return "KILLED" if self.state is None else run_status(self.state)


def run_status(state: str) -> RunStatus:
    """MLflow's status for the run of a finished trial, by Optuna's state."""
    return "FAILED" if state == "FAIL" else "FINISHED"
