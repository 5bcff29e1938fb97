"""A promotion's findings, put together for its run, its version, its card and its figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from catdog_search.answering.facts import ModelFacts
from catdog_search.data import audit
from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import CALIBRATION, short_hash
from catdog_search.evaluation.calibration import covered, least_answered
from catdog_search.evaluation.neither import found_of
from catdog_search.exporting.onnx_file import OnnxFile
from catdog_search.intervals import wilson
from catdog_search.machine.backends import choose_backend, versions
from catdog_search.machine.who import user_at_host
from catdog_search.promotion import card, drawing, gates
from catdog_search.promotion.candidate import Candidate
from catdog_search.promotion.choice import Choice
from catdog_search.promotion.finalists import Finalist
from catdog_search.promotion.gates import Gate
from catdog_search.search.prepare import Prepared
from catdog_search.search.study.views import StudyView, load_view
from catdog_search.study.config import StudyConfig
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Looks
from catdog_search.tracking.models import Pair
from catdog_search.tracking.promotions import Answers, PromotionRun
from catdog_search.tracking.registry import now
from catdog_search.tracking.store import Store
from catdog_search.training.metrics import scores

# Facts that a model can't yet know about itself when it is logged, or that only its ONNX carries.
_OF_THE_REGISTRY = {"examples", "model_id", "name", "registered_at", "run_id", "test", "version"}
_EXAMPLE_SIDE = 64
_HARDEST = 12
_NEGATIVES = 100
# Looks that are listed one by one.
_TOLD = 3


@dataclass(frozen=True)
class Scene:
    """A candidate and everything that it came from.

    Attributes:
        config: Promoted study's configuration.
        view: Promoted study as it stands.
        model: Name of the registered model.
        candidate: Model that may become champion.
        choice: Chosen finalist; None where the best trial is taken as it is.
        dataset: Photos at the candidate's image size, with those of calibration.
        prepared: Arguments that the promoted study would be continued with.
        store: MLflow store that keeps all of it.
    """

    config: StudyConfig
    view: StudyView
    model: str
    candidate: Candidate
    choice: Choice | None
    dataset: Dataset
    prepared: Prepared
    store: Store

    @cached_property
    def answering_key(self) -> str:
        """Key of the networks, their temperature, and the photos that they saw."""
        candidate = self.candidate
        models = [row.model_id for row in candidate.networks.rows]
        form, heat = candidate.networks.gain.form, round(candidate.calibration.temperature, 6)
        return _digest([models, form, heat, self.dataset.digest])

    @cached_property
    def _key(self) -> str:
        asked = self.config.promotion
        return _digest([self.answering_key, self.model, asked.error_rate, dict(asked.costs)])

    def test_hashes(self) -> list[str]:
        """Short hashes of the photos of test."""
        photos = self.dataset.manifest.photos
        return [short_hash(photos[row].sha256) for row in self.dataset.rows("test")]

    def open_run(self) -> PromotionRun:
        """The promotion's run, created or resumed."""
        trained_in = load_view(self.prepared.state, self.candidate.networks.study)
        tags = {
            words.DATASET_DIGEST: self.dataset.digest,
            words.DATA_KIND: self.dataset.manifest.kind,
            words.TRAINED_IN: trained_in.parent_run_id or "",
        }
        key, answering = self._key, self.answering_key
        return PromotionRun.open(
            self.store, self.config.name, self.view.uid or "", key, tags, answering
        )

    @property
    def said(self) -> ModelFacts:
        """Facts that the candidate's model states about itself."""
        candidate, band = self.candidate, self.candidate.band
        n = len(self.dataset.rows("train"))
        is_drawn = self.dataset.manifest.kind == "synthetic"
        return ModelFacts(
            class_names=candidate.class_names,
            image_size=candidate.image_size,
            temperature=candidate.calibration.temperature,
            threshold=candidate.threshold,
            not_sure=None if band is None else (band.low, band.high),
            error_rate=self.config.promotion.error_rate,
            guaranteed=candidate.is_guaranteed,
            neither_above=candidate.unlike_above,
            dataset_digest=self.dataset.digest,
            study=self.config.name,
            trained_on=f"{n:,} {'drawn pictures' if is_drawn else 'photos'}",
            is_drawn=is_drawn,
        )

    def log_model(self, run: PromotionRun, backend: str, onnx: OnnxFile | None) -> str:
        """Log the candidate's model, with all that explains its answers; returns its model id."""
        candidate = self.candidate
        metadata = {
            **self.said.model_dump(mode="json", exclude=_OF_THE_REGISTRY),
            "trials": [row.number for row in candidate.networks.rows],
            "trained_in": candidate.networks.study,
            "form": candidate.networks.gain.form,
        }
        step = -(-candidate.image_size // _EXAMPLE_SIDE)
        example = self.dataset.read(self.dataset.rows("val")[:1])[:, ::step, ::step]
        pair = Pair(candidate.model, candidate.neither, None if onnx is None else onnx.content)
        return run.log_model(self.store, pair, backend, metadata, example)

    def facts(
        self, found: Sequence[Gate], answers: Answers | None, looks: Looks | None
    ) -> dict[str, Any]:
        """All findings, as plain values; those on test are None where it wasn't looked at."""
        candidate, asked = self.candidate, self.config.promotion
        band = candidate.band
        on_test = None
        if answers is not None and candidate.unlike_above is not None:
            on_test = float((answers.unlike > candidate.unlike_above).mean())
        return {
            "model": self.model,
            "study": self.config.name,
            "purpose": self.config.purpose,
            "class_names": list(candidate.class_names),
            "image_size": candidate.image_size,
            "metric": self.config.metric,
            "family": self.config.family,
            "weights": self.config.weights if self.config.loads_weights else None,
            "choice": self._choice(),
            "fitted_on": candidate.fitted_on,
            "guaranteed": candidate.is_guaranteed,
            "calibration": dataclasses.asdict(candidate.calibration),
            "threshold": candidate.threshold,
            "costs": dict(asked.costs),
            "error_rate": asked.error_rate,
            "least_answered": least_answered(asked.error_rate),
            "band": band and {**dataclasses.asdict(band), "coverage": band.coverage},
            "covered": answers and self._covered(answers),
            "neither": {
                "threshold": candidate.unlike_above,
                "on_test": on_test,
                "kinds": self._negatives[1],
            },
            "val": self._val(),
            "test": answers and self._test(answers),
            "looks": looks
            and {
                "text": _looks_in_words(looks),
                "n": len(looks.known),
                "known": [dataclasses.asdict(look) for look in looks.known],
                "unknown": len(looks.unknown),
            },
            "gates": gates.as_facts(found),
            "data": self._data(),
            "by": user_at_host(),
            "at": now(),
            "environment": self._environment(),
        }

    def _choice(self) -> dict[str, Any]:
        networks, choice = self.candidate.networks, self.choice
        first = choice.finalist.trial if choice else networks.rows[0]
        gain = networks.gain
        return {
            "form": gain.form,
            "single": gain.single,
            "together": {
                "mean of probabilities": gain.probabilities,
                "mean of weights": gain.weights,
            },
            "trials": [row.number for row in networks.rows],
            "runs": [row.run_id for row in networks.rows],
            "trained_in": networks.study,
            "name": choice.finalist.name if choice else None,
            "best_trial": first.number,
            "params": dict(first.params),
            "noise": choice.noise if choice else None,
            "ties": list(choice.ties) if choice else [],
            "finalists": [_of_finalist(each) for each in choice.ranked] if choice else [],
        }

    def _covered(self, answers: Answers) -> dict[str, Any]:
        candidate = self.candidate
        labels = answers.labels.astype(int)
        found = covered(candidate.band, candidate.threshold, labels, answers.probabilities)
        return {
            "n": found.n,
            "answered": found.answered,
            "wrong": found.wrong,
            "coverage": found.coverage,
            "error": found.error,
            "interval": list(found.interval),
        }

    def _val(self) -> dict[str, Any]:
        """Scores on val, which are flattering because val chose the networks."""
        found, n = self.candidate.networks.val, len(self.dataset.rows("val"))
        accuracy = found["val_accuracy"]
        interval = list(wilson(round(accuracy * n), n))
        value = found[self.config.metric]
        return {"n": n, "accuracy": accuracy, "interval": interval, "objective": value}

    def _test(self, answers: Answers) -> dict[str, Any]:
        candidate = self.candidate
        labels, p = answers.labels.astype(int), answers.probabilities
        seen, names = answers.predictions(candidate.threshold), candidate.class_names
        said, is_right = seen.predicted, seen.is_right
        right = int(is_right.sum())
        ordered = np.argsort(-np.abs(p - labels), kind="stable")[:_HARDEST]
        hardest = [row for row in ordered if not is_right[row]]
        return {
            "n": len(labels),
            "right": right,
            "accuracy": right / len(labels),
            "interval": list(wilson(right, len(labels))),
            "scores": scores(labels, p, prefix="", threshold=candidate.threshold),
            "confusion": seen.confusion(len(names)).tolist(),
            "hardest": [
                {
                    "key": str(answers.keys[row]),
                    "label": names[labels[row]],
                    "answer": names[said[row]],
                    "probability": float(p[row] if said[row] else 1 - p[row]),
                }
                for row in hardest
            ],
        }

    def _data(self) -> dict[str, Any]:
        manifest = self.dataset.manifest
        counts = {split: dict(each) for split, each in manifest.counts().items()}
        aside = [photo.label for photo in manifest.photos if photo.split == CALIBRATION]
        if aside:
            names = enumerate(manifest.class_names)
            counts[CALIBRATION] = {name: aside.count(label) for label, name in names}
        return {
            "kind": manifest.kind,
            "location": manifest.location,
            "digest": self.dataset.digest,
            "study_digest": self.prepared.dataset.digest,
            "subset": self.dataset.subset,
            "counts": counts,
            "said": audit.in_short(manifest),
        }

    def _environment(self) -> dict[str, str]:
        trained_in = load_view(self.prepared.state, self.candidate.networks.study)
        return {
            **versions(choose_backend()),
            "machine": platform.machine(),
            "trained on": trained_in.device or "unknown",
        }

    @cached_property
    def _negatives(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Scores of drawn negatives by kind, and a summary of them."""
        from catdog_search.evaluation.negatives import REPORT, kinds_for, negatives

        candidate = self.candidate
        side = candidate.image_size
        photos = self.dataset.read(self.dataset.rows(candidate.fitted_on)[:_NEGATIVES])
        told, found = {}, {}
        for kind in kinds_for(REPORT):
            if kind == "drawn" and self.dataset.manifest.kind == "synthetic":
                continue  # it was trained on these
            drawn = negatives(kind, _NEGATIVES, side, photos=photos)
            unlike = np.ravel(candidate.neither.predict(drawn, verbose=0))
            told[kind] = unlike
            limit = np.inf if candidate.unlike_above is None else candidate.unlike_above
            seen = found_of(kind, candidate.answers.unlike, unlike, limit)
            found[kind] = {"n": seen.n, "auc": seen.auc, "flagged": seen.flagged}
        return told, found

    def keep(
        self,
        run: PromotionRun,
        facts: Mapping[str, Any],
        found: Sequence[Gate],
        answers: Answers,
    ) -> None:
        """Log the findings, the card and the figures."""
        run.log_answers(self.candidate.fitted_on, self.candidate.answers)
        run.log_record(facts, card.write(facts))
        run.log_numbers(_metrics(facts), {})
        run.log_figures(
            drawing.figures(
                f"{self.model} from {self.config.name}",
                self.config.metric,
                self.candidate,
                self.choice,
                found,
                answers,
                self.config.promotion.error_rate,
                self._negatives[0],
            )
        )

    def tags(self, run: PromotionRun, facts: Mapping[str, Any]) -> dict[str, str]:
        """Tags of the version."""
        test, val = facts["test"], facts["val"]
        low, high = test["interval"]
        return {
            words.STUDY: self.config.name,
            words.TRIAL: str(facts["choice"]["best_trial"]),
            words.RUN_ID: run.run_id,
            words.METRIC: self.config.metric,
            words.OBJECTIVE: f"{val['objective']:.6g}",
            words.DATASET_DIGEST: self.dataset.digest,
            words.DATA_KIND: self.dataset.manifest.kind,
            words.FORM: facts["choice"]["form"],
            words.THRESHOLD: repr(self.candidate.threshold),
            words.TEST_ACCURACY: f"{test['accuracy']:.6g}",
            words.TEST_INTERVAL: f"{low:.6g} {high:.6g}",
            words.TEST_N: str(test["n"]),
            words.TEST_LOOKS: str(len(facts["looks"]["known"])),
        }

    def description(self, facts: Mapping[str, Any]) -> str:
        """As much of the card as MLflow keeps with a version."""
        return card.in_short(card.write(facts))


def _looks_in_words(looks: Looks) -> str:
    """How often the photos behind a number were looked at, including the look that gave it."""
    n = len(looks.known)
    said = "these photos have been looked at once, for this number"
    if n > 1:
        last = "; ".join(map(str, looks.known[-_TOLD:]))
        more = "the last ones" if n > _TOLD else "each"
        said = f"these photos have been looked at {n} times ({more}: {last})"
    if looks.unknown:
        said += f"; of {len(looks.unknown)} more looks the photos are no longer known"
    return said


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _of_finalist(finalist: Finalist) -> dict[str, Any]:
    return {
        "name": finalist.name,
        "trial": finalist.trial.number,
        "first_value": finalist.trial.value,
        "values": finalist.values,
        "mean": statistics.fmean(finalist.values),
        "operations": finalist.operations,
        "trials": [row.number for row in finalist.seeds],
    }


def _metrics(facts: Mapping[str, Any]) -> dict[str, float]:
    test, fitted = facts["test"], facts["calibration"]
    named = {f"test/{name}": value for name, value in test["scores"].items()}
    named |= {"test/accuracy_low": test["interval"][0], "test/accuracy_high": test["interval"][1]}
    named |= {"looks": len(facts["looks"]["known"]), "temperature": fitted["temperature"]}
    if facts["covered"]:
        named |= {"test/coverage": facts["covered"]["coverage"]}
        named |= {"test/error_of_answered": facts["covered"]["error"]}
    return {name: float(value) for name, value in named.items()}
