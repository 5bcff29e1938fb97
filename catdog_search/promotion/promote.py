"""From a study to a champion: finalists, one look at test, gates, and the move of the alias.

Each step picks up what an earlier call left, so that the next call completes an interrupted one.
Moving the alias is the one write that counts: before it, nothing changes for users of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.evaluation.calibration import threshold_for
from catdog_search.evaluation.floors import Floor, floors_of
from catdog_search.exporting import served
from catdog_search.machine.backends import choose_backend
from catdog_search.promotion import checks, gates, record
from catdog_search.promotion import finalists as again
from catdog_search.promotion.candidate import Networks, as_it_is, fit, of_finalist
from catdog_search.promotion.choice import Choice, choose
from catdog_search.promotion.finalists import Plan
from catdog_search.promotion.gates import Gate
from catdog_search.promotion.recorded import config_of, prepare_as_it_was
from catdog_search.promotion.rivals import DRAWN, Rivals, kind_of, kind_of_version
from catdog_search.promotion.versions import champion_of_others, registered
from catdog_search.search.coordinator import Report
from catdog_search.search.prepare import Request
from catdog_search.search.study.record import require_tracked
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.views import TrialRow, load_view
from catdog_search.study.config import StudyConfig
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Ledger, Looks
from catdog_search.tracking.promotions import Answers, PromotionRun
from catdog_search.tracking.registry import Model, Registered, Registry, register_champion
from catdog_search.tracking.store import Store

Say = Callable[[str], None]


@dataclass(frozen=True)
class Hooks:
    """What a promotion asks of its caller.

    Attributes:
        say: Callback for what a user should know, a line each.
        tell: Callback for what is to be trained.
        agree: Called before anything is trained; raises to refuse.
        confirm: Called with a question about something unusual; raises if the answer is no.
        train: Function that trains what is missing, like `finalists.train`, and shows progress.
    """

    say: Say
    tell: Callable[[Plan], None]
    agree: Callable[[Plan], None]
    confirm: Callable[[str], None]
    train: Callable[[Plan], Report]


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion.

    Attributes:
        study: Study that was promoted.
        best: Its best trial.
        gates: Gates in the order in which they are listed.
        registered: Model version that is champion now; None where nothing was moved.
        facts: All findings; empty where nothing was trained.
        run_id: Id of the promotion's run; None for a dry run, or if it didn't get that far.
        tracking_uri: MLflow's tracking URI, without which the model's URI means nothing.
        interrupted: Whether the training of finalists was stopped before its end.
    """

    study: str
    best: TrialRow
    gates: tuple[Gate, ...]
    registered: Registered | None
    facts: dict[str, Any]
    run_id: str | None
    tracking_uri: str
    interrupted: bool = False

    @property
    def failed(self) -> list[Gate]:
        """Gates that keep the model out."""
        return [gate for gate in self.gates if gate.failed]


def promote(
    request: Request,
    model: str,
    hooks: Hooks,
    *,
    n_finalists: int | None = None,
    n_seeds: int | None = None,
    dry_run: bool = False,
) -> Promotion:
    """Choose a study's champion, look at test once, and release it if it passes the gates.

    Args:
        request: Study, state, photos, weights, and how its finalists train.
        model: Name of the registered model.
        hooks: What is asked of the caller.
        n_finalists: Number of finalists; None for the study file's.
        n_seeds: Number of new seeds of each; None for the study file's.
        dry_run: Whether nothing is trained, looked at or moved.

    Raises:
        StateError: There is no such study or no COMPLETE trial, the champion has other classes,
            test is too small for what is asked, or a store fails.
        RequestError: The model's name, or a cost, is invalid.
        DataError: The photos can't be used.
    """
    return _Promoting(request, model, hooks, n_finalists, n_seeds).run(dry_run=dry_run)


class _Promoting:
    """One promotion.

    Args:
        request: As in `promote`, like the others.
        model: As there.
        hooks: As there.
        n_finalists: As there.
        n_seeds: As there.
    """

    def __init__(
        self,
        request: Request,
        model: str,
        hooks: Hooks,
        n_finalists: int | None,
        n_seeds: int | None,
    ) -> None:
        self._state, self._hooks, self._model = request.state, hooks, model
        assert isinstance(request.study, str), "it is asked for by name"
        checks.require_name(model)
        again.require_no_finalists(request.study)
        self._config = _with_counts(
            config_of(self._state, request.study, hooks.say), n_finalists, n_seeds
        )
        self._view = load_view(self._state, self._config.name)
        (self._best,) = again.best_of(self._view, 1)
        hooks.say(f"promoting the best of {self._config.name} as {model!r}: its photos are read")
        self._prepared = prepare_as_it_was(self._config, self._view, request, hooks.say)
        self._config = self._prepared.config
        self._store = Store.of(self._state)
        require_tracked(self._state, self._store, load_study(self._state, self._config.name))
        self._ledger = Ledger(self._state, self._store)
        self._command = f"promote --study {self._config.name} --model {model}"

    def run(self, *, dry_run: bool) -> Promotion:
        """Promote."""
        dataset, asked = self._prepared.dataset, self._config.promotion
        floors = floors_of(dataset, "test")
        n_test = len(dataset.rows("test"))
        gates.require_enough(asked, floors, n_test, dataset.manifest.location)
        threshold_for(asked.costs, dataset.manifest.class_names)
        self._require_same_classes(dataset)
        self._warn_of_drawn(dataset, dry_run=dry_run)
        if asked.as_it_is:
            networks = as_it_is(self._store, self._config.name, self._best)
            side = self._config.trial_params(self._best.params).image_size
            return self._go_on(networks, None, self._at(dataset, side), floors, dry_run=dry_run)
        planned = again.plan(self._view, self._prepared)
        if planned.missing:
            self._hooks.tell(planned)
            if dry_run:
                return self._result(checks.untrained(asked, floors))
            self._hooks.agree(planned)
            if self._hooks.train(planned).end == "interrupt":
                return self._result(checks.untrained(asked, floors), interrupted=True)
        found = again.trained(planned)
        choice = choose(found, self._config.direction)
        side = self._config.trial_params(choice.finalist.trial.params).image_size
        own = self._at(planned.prepared.dataset, side)
        objective = (self._config.metric, self._config.direction)
        networks = of_finalist(self._store, planned.study, choice, own, objective)
        return self._go_on(networks, choice, own, floors, dry_run=dry_run)

    @staticmethod
    def _at(dataset: Dataset, side: int) -> Dataset:
        return dataclasses.replace(dataset, image_size=side)

    def _require_same_classes(self, dataset: Dataset) -> None:
        """Refuse to replace a champion that has other classes."""
        ours = dataset.manifest.class_names
        if theirs := champion_of_others(self._store, self._model, ours):
            raise StateError(
                f"{theirs}, study {self._config.name!r} {' from '.join(ours)}; give its model "
                "another name: --model NAME"
            )

    def _warn_of_drawn(self, dataset: Dataset, *, dry_run: bool) -> None:
        """Warn and ask, before minutes of training, if drawings would replace a model of photos."""
        model = self._registered()
        if dataset.manifest.kind != DRAWN or model is None or model.record.champion is None:
            return
        if kind_of(Registry(self._store), model) in (None, DRAWN):
            return
        follows = "[promotion] drawn_over_photos lets it follow"
        if not self._config.promotion.drawn_over_photos:
            follows = "its gate `photos` will keep it out, unless [promotion] drawn_over_photos"
        self._hooks.say(
            f"warning: study {self._config.name!r} learned from drawn pictures, and champion "
            f"version {model.record.champion} of {self._model!r} from photos; {follows}"
        )
        if not dry_run:
            self._hooks.confirm("promote it all the same?")

    def _registered(self) -> Model | None:
        """The registered model; None where there is none yet."""
        return registered(self._store, self._model)

    def _go_on(
        self,
        networks: Networks,
        choice: Choice | None,
        dataset: Dataset,
        floors: Sequence[Floor],
        *,
        dry_run: bool,
    ) -> Promotion:
        self._hooks.say("calibrating, and learning what is neither")
        candidate = fit(networks, dataset, self._config.promotion)
        source = checks.reopened(self._prepared)
        scene = record.Scene(
            config=self._config,
            view=self._view,
            model=self._model,
            candidate=candidate,
            choice=choice,
            dataset=dataset,
            prepared=self._prepared,
            store=self._store,
        )
        checked = checks.of_the_file(
            candidate, scene.said, source, self._config.promotion, self._hooks.say
        )
        before = checked.gates
        if dry_run:
            open_ = gates.not_looked_at(self._config.promotion, floors)
            found = [*open_, *before, *self._of_photos(dataset, self._registered())]
            return self._result(found, scene.facts(found, None, None))
        # Two at once would look at test twice, and each would compare itself with a champion that
        # the other is about to replace.
        with self._state.registering():
            return self._in_turn(scene, floors, checked)

    def _of_photos(self, dataset: Dataset, model: Model | None) -> list[Gate]:
        """The gates on the photos that it learned from."""
        asked, manifest = self._config.promotion, dataset.manifest
        return [
            gates.of_leaks(asked, checks.leaked(manifest), len(dataset.rows("test"))),
            gates.of_kind(asked, manifest.kind, kind_of(Registry(self._store), model)),
        ]

    def _in_turn(
        self, scene: record.Scene, floors: Sequence[Floor], checked: checks.FileChecks
    ) -> Promotion:
        run = scene.open_run()
        model_id = run.model_id() or scene.log_model(run, choose_backend(), checked.onnx)
        answers, looks = self._look(scene, run, model_id)
        candidate = scene.candidate
        is_right = answers.predictions(candidate.threshold).is_right
        asked = self._config.promotion
        model = self._registered()
        rivals = self._rivals(scene, run, model, model_id, answers, is_right)
        labels, p = answers.labels.astype(int), answers.probabilities
        names = candidate.class_names
        test = gates.on_test(asked, floors, labels, p, candidate.threshold, names)
        photos = self._of_photos(scene.dataset, model)
        found = [*test, gates.against(asked, rivals), *checked.gates, *photos]
        facts = scene.facts(found, answers, looks)
        scene.keep(run, facts, found, answers)
        if any(gate.failed for gate in found):
            run.log_numbers({}, {words.PROMOTED: "no"})
            run.finish("FINISHED")
            self._store.keep_copy()
            return self._result(found, facts, run.run_id)
        registered = register_champion(
            self._store, self._model, model_id, scene.tags(run, facts), scene.description(facts)
        )
        run.log_numbers({}, {words.PROMOTED: f"{self._model}/{registered.version}"})
        run.finish("FINISHED")
        self._store.keep_copy()
        unserved = served.why_not_served(self._state, self._store, self._model)
        if unserved is not None:
            self._hooks.say(f"note: not where it is served from yet: {unserved}")
        return self._result(found, facts, run.run_id, registered)

    def _rivals(
        self,
        scene: record.Scene,
        run: PromotionRun,
        model: Model | None,
        model_id: str,
        answers: Answers,
        is_right: npt.NDArray[np.bool_],
    ) -> list[gates.Rival]:
        """The champions so far, without this model if it is one of them.

        A champion that learned from drawn pictures is no rival of a model of photos.
        """
        if model is None:
            return []
        registry, kind = Registry(self._store), scene.dataset.manifest.kind
        others = tuple(
            version
            for version in model.versions
            if version.model_id != model_id
            and (kind == DRAWN or kind_of_version(registry, version) != DRAWN)
        )
        rivals = Rivals(
            self._store, self._ledger, run, self._packed_at, self._command, self._hooks.say
        )
        return list(rivals.of(dataclasses.replace(model, versions=others), answers, is_right))

    def _look(self, scene: record.Scene, run: PromotionRun, model_id: str) -> tuple[Answers, Looks]:
        """The answers to test: the kept ones if there are any, else those of this one look."""
        hashes = scene.test_hashes()
        kept = run.answers("test") or self._answered_before(scene)
        if kept is not None:
            run.log_answers("test", kept)
            return kept, self._ledger.looks(hashes)
        before = self._ledger.looks(hashes).by(model_id)
        # A look that was cut off before its answers were kept has told nobody anything.
        if all(look.command != self._command for look in before):
            self._ledger.write(
                command=self._command,
                model=f"models:/{model_id}",
                model_id=model_id,
                run_id=run.run_id,
                hashes=hashes,
                again=bool(before),
            )
        self._hooks.say(f"looking at test: {len(hashes)} photos")
        answers = scene.candidate.answer(scene.dataset, "test")
        run.log_answers("test", answers)
        return answers, self._ledger.looks(hashes)

    def _answered_before(self, scene: record.Scene) -> Answers | None:
        """The same networks' answers to the same photos in another promotion."""
        wanted = set(scene.test_hashes())
        for run in PromotionRun.alike(
            self._store, self._config.name, self._view.uid or "", scene.answering_key
        ):
            kept = run.answers("test")
            if kept is not None and set(kept.hashes.tolist()) == wanted:
                return kept
        return None

    def _packed_at(self, side: int) -> Dataset:
        return checks.packed_at(self._prepared, side, self._hooks.say)

    def _result(
        self,
        found: Sequence[Gate],
        facts: dict[str, Any] | None = None,
        run_id: str | None = None,
        registered: Registered | None = None,
        *,
        interrupted: bool = False,
    ) -> Promotion:
        return Promotion(
            study=self._config.name,
            best=self._best,
            gates=tuple(found),
            registered=registered,
            facts=facts or {},
            run_id=run_id,
            tracking_uri=self._store.shown,
            interrupted=interrupted,
        )


def _with_counts(config: StudyConfig, finalists: int | None, seeds: int | None) -> StudyConfig:
    """The study with this call's counts."""
    given = {"finalists": finalists, "seeds": seeds}
    changed = {name: value for name, value in given.items() if value is not None}
    promotion = config.promotion.model_copy(update=changed)
    return config.model_copy(update={"promotion": promotion})
