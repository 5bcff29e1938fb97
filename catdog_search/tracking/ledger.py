"""The ledger of looks at photos of test: who had which model look at which of them, and when.

The more often somebody has looked at photos of test, the less a number measured on them means. Each
look is a tag of one registered model, which serves as the ledger and nothing else. It is recorded
before a model is shown the photos, in an order that is safe wherever it is interrupted:

1. The photos' hashes, in the state folder and beside the model's run. The files are named by their
   digest and record no look: on their own they count for nothing, and the next look reuses them.
2. The tag, the one write that counts. From here on the look stands, whatever happens next: better
   to record a look that never happened than to miss one. What it covered is already stored.
3. The echo, a line in the state folder. It only repeats tags, so it never records a look that
   doesn't stand; a missing line is written with the next look. An echo counts as much as its tag,
   so that a look survives the loss of the database or the removal of its tag.

A set of photos inherits the looks of every set that it shares a photo with.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.identity import write_whole
from catdog_search.machine.who import user_at_host
from catdog_search.places import StateFolder
from catdog_search.redact import redact
from catdog_search.text import first_line, in_a_line, printable
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.numbered import next_key, number
from catdog_search.tracking.registry import Registry, now
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    from catdog_search.tracking.own import Client

_DESCRIPTION = (
    "The ledger of looks at photos of test: one tag a look, written before a model was shown them. "
    "It is no model and has no versions; what it says is kept by leaving it as it is."
)
_ECHO = "ledger.jsonl"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Most characters that each text may take in a tag's value, written as JSON; MLflow's databases hold
# 5000 in total.
_MOST = {"by": 400, "command": 2000, "model": 700, "model_id": 700, "run_id": 200}


@dataclass(frozen=True)
class Look:
    """One look.

    Attributes:
        key: Key of its tag.
        by: Who, as user@host.
        at: When, in UTC, as ISO 8601 writes it.
        command: Command that looked, for people.
        model: Name or URI of the model, for people.
        model_id: Id of the model.
        run_id: Id of the model's run, which keeps the photos' hashes.
        digest: Digest of the photos' hashes, see `digest_of`.
        n: Number of photos, from 1.
        again: Whether this model had already been shown some of them.
    """

    key: str
    by: str
    at: str
    command: str
    model: str
    model_id: str
    run_id: str
    digest: str
    n: int
    again: bool = False

    @property
    def text(self) -> str:
        """Value of its tag."""
        return json.dumps({name: fact for name, fact in asdict(self).items() if name != "key"})

    def is_by(self, model_id: str) -> bool:
        """Whether this model was the one shown the photos."""
        return self.model_id == _cut("model_id", model_id)

    def __str__(self) -> str:
        return f"{self.by}, {self.at}, {self.command}"


_TOLD = {field.name: field.type for field in fields(Look) if field.name != "key"}


@dataclass(frozen=True)
class Looks:
    """Looks that count for some photos, in the order in which they happened.

    Attributes:
        known: Looks at sets that share a photo with them.
        unknown: Looks for which it is no longer known which photos they were at.
    """

    known: tuple[Look, ...]
    unknown: tuple[Look, ...] = ()

    def by(self, model_id: str) -> tuple[Look, ...]:
        """Known looks by one model."""
        return tuple(look for look in self.known if look.is_by(model_id))

    def __str__(self) -> str:
        """What is stated beside every number measured on these photos."""
        n = len(self.known)
        said = "these photos had not been looked at before"
        if n:
            times = "once" if n == 1 else f"{n} times"
            said = f"these photos have been looked at {times} before (last: {self.known[-1]})"
        if not self.unknown:
            return said
        lost = len(self.unknown)
        looks = "1 look" if lost == 1 else f"{lost} looks"
        return f"{said}, as far as is known: of {looks} the photos are no longer known"


def digest_of(hashes: Iterable[str]) -> str:
    """Name for a set of photos: sha256 over their sorted short hashes."""
    return hashlib.sha256("\n".join(sorted(set(hashes))).encode()).hexdigest()


class Ledger:
    """The ledger of a store, with its echo in a state folder.

    Photos are named by `data.manifest.short_hash` throughout. Callers that read and then write hold
    `StateFolder.registering` meanwhile, so that others using this state wait. Writers that share a
    server from another state don't wait, and then both looks stand.

    Args:
        state: State folder that keeps the echo.
        store: Store whose registry keeps the tags; reading doesn't create it.
    """

    def __init__(self, state: StateFolder, store: Store) -> None:
        self._state = state
        self._store = store
        self._folder = state.root / words.LOOKS
        # Keyed by digest of their content, so cached sets never go stale.
        self._sets: dict[str, frozenset[str]] = {}

    def looks(self, hashes: Collection[str]) -> Looks:
        """The looks that count for a set of photos.

        Raises:
            StateError: The registry doesn't answer, or the record of a look can't be read.
        """
        wanted, digest = frozenset(hashes), digest_of(hashes)
        known, unknown = [], []
        for look, photos in self._with_photos():
            if look.digest == digest or not wanted.isdisjoint(photos or ()):
                known.append(look)
            elif photos is None:
                unknown.append(look)
        return Looks(tuple(known), tuple(unknown))

    def of_model(self, model_id: str, hashes: Collection[str]) -> tuple[Look, ...]:
        """Looks at these photos by one model.

        Raises:
            StateError: As in `looks`.
        """
        return self.looks(hashes).by(model_id)

    def covered(self, hashes: Collection[str]) -> frozenset[str]:
        """Those of the given photos that have been looked at as photos of test.

        Raises:
            StateError: As in `looks`.
        """
        wanted, digest = frozenset(hashes), digest_of(hashes)
        seen = [
            wanted if look.digest == digest else photos or frozenset()
            for look, photos in self._with_photos()
        ]
        return wanted.intersection(frozenset().union(*seen))

    def write(
        self,
        *,
        command: str,
        model: str,
        model_id: str,
        run_id: str,
        hashes: Collection[str],
        again: bool = False,
    ) -> Look:
        """Record a look, before the model is shown the photos.

        Args:
            command: Command that looks, for people.
            model: Name or URI of the model, for people.
            model_id: Id of the model.
            run_id: Id of the run that logged it, which keeps the hashes.
            hashes: Photos that it will be shown, at least one.
            again: Whether it was shown some of them before.

        Raises:
            StateError: It can't be recorded in full, so nobody may look; or as in `looks`.
        """
        photos, digest = sorted(set(hashes)), digest_of(hashes)
        assert photos, "a look at nothing is none"
        told = {"by": user_at_host(), "command": redact(command), "model": redact(model)}
        told.update(model_id=model_id, run_id=run_id)
        facts: dict[str, Any] = {name: _cut(name, text) for name, text in told.items()}
        facts.update(at=now(), digest=digest, n=len(photos), again=again)
        with _before_looking():
            self._state.create()
            self._folder.mkdir(exist_ok=True)
            text = json.dumps(photos)
            write_whole(self._path(digest), text)
            self._client.log_text(run_id, text, f"{words.LOOKS}/{digest}.json")
            tagged, echoed = self._tagged(), self._echoed()
            key = next_key(words.LOOK, (*tagged, *echoed), uuid.uuid4().hex[:12])
            look = Look(key, **facts)
            self._registry.tag(words.LEDGER, key, look.text, _DESCRIPTION)
            self._echo([*(tagged[key] for key in tagged.keys() - echoed), look])
            self._store.keep_copy()
        return look

    @cached_property
    def _client(self) -> Client:
        return self._store.client()

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self._store)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    def _with_photos(self) -> Iterator[tuple[Look, frozenset[str] | None]]:
        """All looks, in order, and the photos of each; None where these are no longer known."""
        found = {**self._echoed(), **self._tagged()}
        looks = sorted(found.values(), key=lambda e: (e.at, number(words.LOOK, e.key), e.key))
        for look in looks:
            if look.digest in self._sets:
                continue
            here = _photos(self._path(look.digest), look.digest)
            if photos := here or self._beside_run(look):  # else another look's run may keep them
                self._sets[look.digest] = photos
        return ((look, self._sets.get(look.digest)) for look in looks)

    def _beside_run(self, look: Look) -> frozenset[str] | None:
        """The photos of a look, as its model's run keeps them."""
        import mlflow

        if self._store.is_absent():
            return None
        name = f"{words.LOOKS}/{look.digest}.json"
        try:
            if name not in {f.path for f in self._client.list_artifacts(look.run_id, words.LOOKS)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                path = self._client.download_artifacts(look.run_id, name, folder)
                return _photos(Path(path), look.digest)
        except (mlflow.exceptions.MlflowException, OSError):  # the run, or its files, are gone
            return None

    def _tagged(self) -> dict[str, Look]:
        if self._store.is_absent():
            return {}
        where = f"registered model {words.LEDGER!r}: its tag"
        tags = self._registry.tags(words.LEDGER).items()
        return {
            key: _read(key, text, f"{where} {key}", "in MLflow")
            for key, text in tags
            if key.startswith(words.LOOK)
        }

    def _echoed(self) -> dict[str, Look]:
        path = self._folder / _ECHO
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise StateError(f"{path} can't be read: {first_line(error)}") from None
        found = [
            _read(None, line, f"{path}: its line {i}", "there")
            for i, line in enumerate(lines, start=1)
            if line.strip()
        ]
        return {look.key: look for look in found}

    def _echo(self, looks: Iterable[Look]) -> None:
        """Append a line for each look, in one write."""
        path = self._folder / _ECHO
        lines = [f"{json.dumps(asdict(look))}\n" for look in looks]
        with path.open("a+b") as file:
            # A truncated line is left on its own, and is reported when it is read.
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            begin = "" if file.read() in (b"", b"\n") else "\n"
            file.write((begin + "".join(lines)).encode())
            file.flush()
            os.fsync(file.fileno())


def _photos(path: Path, digest: str) -> frozenset[str] | None:
    """The hashes in a file; None if it has none or they don't match the digest."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        hashes = frozenset(map(str, found))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return hashes if digest_of(hashes) == digest else None


def _cut(name: str, text: str) -> str:
    """A text of a look, on one printable line, cut to what MLflow keeps."""
    shown, most = printable(in_a_line(text)), _MOST[name]
    if len(json.dumps(shown)) <= most:
        return shown
    ends = list(itertools.accumulate(len(json.dumps(char)) - 2 for char in shown))
    return shown[: bisect.bisect_right(ends, most - len(json.dumps("…")))] + "…"


def _read(key: str | None, text: str, where: str, place: str) -> Look:
    """The look recorded by a tag, or by a line of the echo, which includes its key."""
    try:
        facts: Mapping[str, Any] = json.loads(text)
        look = Look(key or facts["key"], **{name: facts[name] for name in _TOLD})
        number(words.LOOK, look.key)
        if any(type(getattr(look, name)).__name__ != kind for name, kind in _TOLD.items()):
            raise ValueError("not what ours say")
        if not _DIGEST.fullmatch(look.digest):  # which names a file
            raise ValueError("no digest")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise StateError(
            f"{where} tells of no look at photos of test; fix or remove it {place}"
        ) from None
    return look


@contextlib.contextmanager
def _before_looking() -> Iterator[None]:
    import mlflow

    try:
        yield
    except (StateError, mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        raise StateError(
            "a look at photos of test is recorded before it happens, and can't be, so none was "
            f"looked at: {first_line(error)}"
        ) from error
