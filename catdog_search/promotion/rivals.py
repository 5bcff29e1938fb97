"""Champions so far, asked about a challenger's test photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import CALIBRATION, short_hash
from catdog_search.figures.predictions import THRESHOLD, Predictions
from catdog_search.promotion.gates import FEWEST_COMMON, Rival
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Ledger
from catdog_search.tracking.looked_at import LoggedModels
from catdog_search.tracking.promotions import Answers, PromotionRun
from catdog_search.tracking.registry import Model, Registry, Version
from catdog_search.tracking.store import Store

# Packs the test photos at another image size, in pixels.
AtSize = Callable[[int], Dataset]
Say = Callable[[str], None]

# The data kind of a model that learned from drawn pictures.
DRAWN = "synthetic"


@dataclass(frozen=True)
class Rivals:
    """The champions that a challenger is compared with.

    Args:
        store: Store that keeps them.
        ledger: Ledger of looks.
        run: Run of the challenger's promotion, which keeps the answers of a champion that has none
            of its own.
        at_size: Function that packs the test photos at another image size.
        command: Command that looks, for the ledger.
        say: Callback for what a user should know, a line each.
    """

    store: Store
    ledger: Ledger
    run: PromotionRun
    at_size: AtSize
    command: str
    say: Say

    def of(
        self, model: Model, answers: Answers, is_right: npt.NDArray[np.bool_]
    ) -> Iterator[Rival]:
        """Every champion so far with answers to these photos, the current one last.

        The current champion is asked if it never was; that is a look of its own.

        Args:
            model: Registered model whose champions they are.
            answers: The challenger's answers to test.
            is_right: Whether the challenger answers correctly (n,).
        """
        for version in _champions(model):
            now = version.number == model.record.champion
            known = self._known(version, answers)
            if known is None and now:
                known = self._ask(model.name, version, answers)
            if known is not None:
                yield self._compared(version, answers, is_right, known)

    def _known(self, version: Version, answers: Answers) -> dict[str, float] | None:
        """Its answers to these photos, from its own promotion or an interrupted try of this one."""
        own = PromotionRun.of(self.store, version.run_id) if version.run_id else None
        kept = own.answers("test") if own else None
        if kept is None or len(np.intersect1d(kept.hashes, answers.hashes)) < FEWEST_COMMON:
            kept = self.run.answers(_name(version))
        if kept is None:
            return None
        return dict(zip(kept.hashes.tolist(), kept.probabilities.tolist(), strict=True))

    def _ask(self, registered: str, version: Version, answers: Answers) -> dict[str, float]:
        name = f"models:/{registered}/{version.number}"
        loaded = LoggedModels(self.store).load(name)
        self.say(f"champion version {version.number} is asked about test too")
        hashes = answers.hashes.tolist()
        model_id = version.model_id or ""
        if not self.ledger.of_model(model_id, hashes):
            self.ledger.write(
                command=self.command,
                model=name,
                model_id=model_id,
                run_id=version.run_id or "",
                hashes=hashes,
            )
        photos = self.at_size(loaded.facts.image_size)
        x, _ = photos.split("test")
        order = [short_hash(photos.manifest.photos[row].sha256) for row in photos.rows("test")]
        said = np.ravel(loaded.model.predict(x, batch_size=loaded.batch_size, verbose=0))
        by_hash = dict(zip(order, said.astype(float).tolist(), strict=True))
        probabilities = np.array([by_hash[each] for each in hashes])
        blank = np.zeros(len(hashes))
        kept = Answers(
            answers.hashes, answers.keys, answers.labels, probabilities, probabilities, blank
        )
        self.run.log_answers(_name(version), kept)
        return by_hash

    def _compared(
        self,
        version: Version,
        answers: Answers,
        is_right: npt.NDArray[np.bool_],
        known: dict[str, float],
    ) -> Rival:
        """The comparison on photos that are new to the champion too."""
        trained = self._trained_on(version)
        common = np.array([each in known for each in answers.hashes.tolist()])
        new = np.array([each not in trained for each in answers.hashes.tolist()])
        rows = np.flatnonzero(common & new)
        said = np.array([known[each] for each in answers.hashes[rows].tolist()])
        threshold = float(version.tags.get(words.THRESHOLD, THRESHOLD))
        theirs = Predictions(answers.labels[rows], said, threshold).is_right
        dropped = int((common & ~new).sum())
        return Rival(version.number, theirs, is_right[rows], dropped)

    def _trained_on(self, version: Version) -> frozenset[str]:
        """Photos that were used to train, choose or calibrate it; empty where that isn't known."""
        found, run_id = None, version.run_id
        if run_id and Registry(self.store).has_run(run_id):
            found = LoggedModels(self.store).known_photos(run_id)
        if found is None:
            self.say(f"which photos champion version {version.number} was trained on isn't known")
            return frozenset()
        return frozenset(h for split in ("train", "val", CALIBRATION) for h in found.get(split, ()))


def _name(version: Version) -> str:
    """Folder of a champion's answers in a challenger's promotion."""
    return f"champion-{version.number}"


def _champions(model: Model) -> list[Version]:
    """All existing versions that were ever champion, the current one last."""
    record = model.record
    once = {move.to for move, outcome in record.outcomes() if outcome in ("done", "unclear")}
    numbers = once | ({record.champion} if record.champion else set())
    there = [version for version in model.versions if version.number in numbers]
    return sorted(there, key=lambda v: (v.number == record.champion, v.number))


def kind_of(registry: Registry, model: Model | None) -> str | None:
    """The kind of photos that the champion was trained on; None without a champion."""
    champion = None if model is None else model.record.champion
    for version in model.versions if model else ():
        if version.number == champion:
            return kind_of_version(registry, version)
    return None


def kind_of_version(registry: Registry, version: Version) -> str | None:
    """The kind of photos that a version was trained on; None where that isn't known."""
    return version.tags.get(words.DATA_KIND) or registry.data_kind(version.run_id)
