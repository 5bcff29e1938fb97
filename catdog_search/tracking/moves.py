"""The record of a champion's moves: one tag of the registered model for each move.

A tag is written before the alias is moved, and moving the alias is the one write that counts: the
outcome of a move shows in what the alias named when the next move was written, or names now. So
nothing has to be written afterwards, and a kill between the two leaves a move that is known not to
have happened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from catdog_search.errors import StateError
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.numbered import next_key, number

# What became of a move. `open`: it didn't happen and isn't marked so yet. `unclear`: the alias was
# moved afterwards without a record, so it probably happened.
Outcome = Literal["done", "open", "undone", "unclear"]


@dataclass(frozen=True)
class Note:
    """Who made a move, when and why.

    Attributes:
        command: `promote` or `rollback`.
        by: Who, as user@host.
        at: When, in UTC, as ISO 8601 writes it.
        reason: Reason, in a line; empty where study and trial are reason enough.
        study: Study whose trial was promoted; None for another move.
        trial: Trial's number, as text; None for another move.
    """

    command: str
    by: str
    at: str
    reason: str = ""
    study: str | None = None
    trial: str | None = None


_TOLD = tuple(field.name for field in fields(Note))


@dataclass(frozen=True)
class Move:
    """One intended move.

    Attributes:
        key: Key of its tag; keys sort in the order of the moves.
        before: Version that the alias named before; None for none.
        to: Version that it should name afterwards.
        note: Note of who, when and why.
        undone_at: When it was marked as not having happened; None if it wasn't.
    """

    key: str
    before: int | None
    to: int
    note: Note
    undone_at: str | None = None

    def undone(self, at: str) -> Move:
        """The same move, marked as not having happened."""
        return replace(self, undone_at=at)

    @property
    def text(self) -> str:
        """Value of its tag."""
        facts = {"from": self.before, "to": self.to, **asdict(self.note)}
        return json.dumps({**facts, "undone_at": self.undone_at} if self.undone_at else facts)

    def __str__(self) -> str:
        to, by, at = self.to, self.note.by, self.note.at
        return f"{self.note.command} to version {to} by {by} at {at}"


@dataclass(frozen=True)
class Record:
    """All moves of a model's champion, and the current champion.

    Attributes:
        champion: Version that the alias names; None for none.
        moves: Moves in the order in which they were written.
    """

    champion: int | None
    moves: tuple[Move, ...]

    @classmethod
    def read(cls, model: str, champion: int | None, tags: Mapping[str, str]) -> Record:
        """The record of a registered model.

        Raises:
            StateError: A move's tag can't be read.
        """
        keys = [key for key in tags if key.startswith(words.MOVE)]
        moves = [_read(model, key, tags[key]) for key in keys]
        return cls(
            champion,
            tuple(sorted(moves, key=lambda move: (number(words.MOVE, move.key), move.key))),
        )

    def next_key(self, unique: str) -> str:
        """Key for the tag of the next move.

        Args:
            unique: Text that no concurrent writer uses.
        """
        return next_key(words.MOVE, (move.key for move in self.moves), unique)

    def outcomes(self) -> tuple[tuple[Move, Outcome], ...]:
        """What became of each move."""
        said_next = [*(move.before for move in self.moves[1:]), self.champion]
        return tuple(
            (move, _outcome(move, after, is_last=move is self.moves[-1]))
            for move, after in zip(self.moves, said_next, strict=False)  # longer if no moves
        )

    @property
    def unfinished(self) -> Move | None:
        """The move that was written but didn't happen, and isn't marked so."""
        return next((move for move, outcome in self.outcomes() if outcome == "open"), None)

    @property
    def previous(self) -> int | None:
        """The version that was champion before this one, ignoring those rolled back.

        None where the record has none.
        """
        stood: list[int] = []
        for move, outcome in self.outcomes():
            _stands(stood, move.before, back=False)
            if outcome in ("done", "unclear"):
                _stands(stood, move.to, back=move.note.command == words.ROLLBACK)
        if self.champion is None:
            return stood[-1] if stood else None
        _stands(stood, self.champion, back=False)
        return stood[-2] if len(stood) > 1 else None

    def moved(self, version: int) -> Move | None:
        """The last move that made a version champion, as far as the record knows."""
        done = [m for m, outcome in self.outcomes() if m.to == version and outcome == "done"]
        if not done and version == self.champion:  # two at once on a server
            done = [m for m in self.moves if m.to == version]
        return done[-1] if done else None


def _stands(stood: list[int], version: int | None, *, back: bool) -> None:
    """Put the current champion on top of the stack of champions; `back` pops down to it."""
    if back and version in stood:
        while stood[-1] != version:
            stood.pop()
    elif version is not None and stood[-1:] != [version]:
        stood.append(version)


def _outcome(move: Move, after: int | None, *, is_last: bool) -> Outcome:
    if after == move.to:
        return "done"
    if move.undone_at or (after == move.before and not is_last):
        return "undone"
    return "open" if after == move.before else "unclear"


def _read(model: str, key: str, text: str) -> Move:
    try:
        number(words.MOVE, key)
        facts: dict[str, Any] = json.loads(text)
        before, to, undone_at = facts["from"], facts["to"], facts.get("undone_at")
        note = Note(**{name: facts[name] for name in _TOLD if name in facts})
        return Move(key, None if before is None else int(before), int(to), note, undone_at)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StateError(
            f"registered model {model!r}: its tag {key} tells of no move of the champion; fix or "
            "remove it in MLflow"
        ) from None
