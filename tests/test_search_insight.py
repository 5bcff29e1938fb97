"""What a study says of itself: at the terminal, as figures, and on its run in MLflow."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from tiny_study import TABLE, mlflow_children, run

from catdog_search.cli import main
from catdog_search.cli.look import _in_training
from catdog_search.data.dataset import Dataset
from catdog_search.figures.study import Point, importance_bars, optimization_history, slices
from catdog_search.places import StateFolder
from catdog_search.search.study import views
from catdog_search.search.study.insight import importance, noise, replicates
from catdog_search.search.study.views import StudyView, view_of
from catdog_search.tracking.store import Store

SPACE = {**TABLE["space"], "block": {"choices": ["plain", "residual"]}}


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, pictures: Dataset, empty_mlflow: Path
) -> Iterator[tuple[StateFolder, StudyView]]:
    """Ten trials of which three are one recipe, and one diverged."""
    state = StateFolder.at(str(tmp_path_factory.mktemp("done")))
    shutil.copy(empty_mlflow, state.mlflow_db)
    recipes = {"plain": {**TABLE["recipes"]["plain"], "block": "plain"}}
    table = {"space": SPACE, "recipes": recipes, "sampler": {"name": "random"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_CALLS", str(state.root / "calls"))
        patch.setenv("FAKE_ACTIONS", json.dumps({"5": "diverge"}))
        patch.setenv("FAKE_BLANK_FIGURES", "1")  # those of the study are looked at
        report = run(state, pictures, 10, table=table, seeds=3, drawn=True)
    yield state, report.view
    shutil.rmtree(state.root)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_show_says_best_failures_importance_and_noise(done: tuple[StateFolder, StudyView]) -> None:
    state, view = done
    text = call("show", "--study", "tiny", "--state", str(state.root))
    assert "COMPLETE, 1 PRUNED" in text
    assert "diverged: 1 (trials 4)" in text
    assert "1 x diverged: the loss is not finite" in text
    assert re.search(r"importance: .*n_blocks \d+%", text)
    assert "(fANOVA over 9 trials; so few are a hint, no more)" in text
    assert "noise: plain on 3 seeds (trials 0, 1, 2): mean " in text
    assert view.best is not None
    assert f"{view.best.value:.4f} may be anything from " in text


def test_show_as_json_holds_all_of_it(done: tuple[StateFolder, StudyView]) -> None:
    state, view = done
    facts = json.loads(call("show", "--study", "tiny", "--state", str(state.root), "--json"))
    assert facts["failures"] == {"diverged": [4]}
    shares = facts["importance"]["shares"]
    assert set(shares) == {"n_blocks", "filters", "dropout", "block"}
    assert sum(shares.values()) == pytest.approx(1)
    assert facts["replicates"][0]["numbers"] == [0, 1, 2]
    assert facts["replicates"][0]["spread"] == 0  # the stand-in has no seed
    assert facts["metric"] == "val_accuracy"
    assert len(facts["trials"]) == len(view.trials) == 10


def test_show_trial_draws_what_it_no_longer_keeps(
    done: tuple[StateFolder, StudyView], tmp_path: Path, shared_cache: Path
) -> None:
    state, view = done
    dropped = next(row for row in view.trials if row.state == "COMPLETE" and not row.kept)
    where = ["--state", str(state.root), "--figures", str(tmp_path / "f")]
    text = call("show", "--study", "tiny", "--trial", str(dropped.number), *where)
    assert f"trial {dropped.number} of tiny" in text
    assert "val_f1: 0.5000" in text
    names = {"learning_curves", "confusion_matrix", "roc_pr", "reliability", "most_wrong"}
    drawn = list((tmp_path / "f").iterdir())
    assert {path.stem for path in drawn} == names
    assert all(path.stat().st_size > 3000 for path in drawn)


def test_show_trial_tells_rank_epochs_and_train(done: tuple[StateFolder, StudyView]) -> None:
    state, view = done
    assert view.best is not None
    number, value = view.best.number, view.best.value
    where = ["show", "--study", "tiny", "--trial", str(number), "--state", str(state.root)]
    text = call(*where)
    assert f"COMPLETE, val_accuracy {value:.4f}" in text
    assert ", rank 1 of 9, 3 epochs, " in text
    assert "weights kept: those of epoch 3\n" in text
    assert re.search(r"train: loss 0\.\d+, accuracy 0\.\d+, in epoch 3 while it trained", text)
    facts = json.loads(call(*where, "--json"))
    assert (facts["rank"], facts["best_epoch"], facts["why"]) == (1, 3, None)


def test_show_trial_that_was_pruned_tells_its_score_so_far_and_why(
    tmp_path: Path, pictures: Dataset, empty_mlflow: Path
) -> None:
    state = StateFolder.at(str(tmp_path))
    shutil.copy(empty_mlflow, state.mlflow_db)
    table = {
        "space": {"n_blocks": {"low": 1, "high": 2}, "epochs": {"choices": [0]}, "filters": 4},
        "recipes": {"good": {"n_blocks": 2, "epochs": 0}, "bad": {"n_blocks": 1, "epochs": 0}},
        "pruner": {"name": "median", "n_startup_trials": 1, "n_warmup_epochs": 0},
    }
    view = run(state, pictures, 2, table=table).view
    last = view.trials[1].last
    assert (view.trials[1].state, view.trials[1].used["epochs"]) == ("PRUNED", 3)
    text = call("show", "--study", "tiny", "--trial", "1", "--state", str(state.root))
    assert f"PRUNED, val_accuracy {last:.4f} so far, after epoch 1, " in text
    assert "why: the pruner, median, stopped it after epoch 1, by what other trials" in text
    assert "params: n_blocks=1 epochs=3 filters=4\n" in text


def test_show_trial_whose_value_was_scored_anew_says_so(
    done: tuple[StateFolder, StudyView],
) -> None:
    _, view = done
    row = replace(view.trials[0], in_training=0.531)
    assert "which had val_accuracy 0.5310 in training; val is scored anew by" in _in_training(
        view, row
    )


def test_show_trial_without_its_photos_says_what_is_missing(
    done: tuple[StateFolder, StudyView], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = done
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "empty"))
    where = ["--state", str(state.root), "--figures", str(tmp_path / "f")]
    text = call("show", "--study", "tiny", "--trial", "0", *where)
    assert "not in the cache any more" in text
    assert not (tmp_path / "f" / "most_wrong.png").exists()
    assert (tmp_path / "f" / "roc_pr.png").exists()


def test_show_of_a_diverged_trial_says_why(done: tuple[StateFolder, StudyView]) -> None:
    state, _ = done
    text = call("show", "--study", "tiny", "--trial", "4", "--state", str(state.root))
    assert "why: diverged: the loss is not finite" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trial", "99"], "error: study 'tiny' has no trial 99; its trials are 0 to 9"),
        (["--figures", "/proc/nowhere"], "error: --figures /proc/nowhere: "),
    ],
)
def test_show_refuses_in_one_line(
    done: tuple[StateFolder, StudyView], arguments: list[str], says: str
) -> None:
    state, _ = done
    result = CliRunner().invoke(
        main, ["show", "--study", "tiny", "--state", str(state.root), *arguments]
    )
    assert result.exit_code == 1
    assert says in result.output
    assert result.output.count("\n") == 1


def test_parent_run_holds_the_best_trials_numbers_link_figures_and_table(
    done: tuple[StateFolder, StudyView],
) -> None:
    state, view = done
    client = Store.of(state).client()
    parent = client.get_run(view.parent_run_id)
    assert view.best is not None
    assert parent.data.metrics["best_value"] == pytest.approx(view.best.value)
    assert parent.data.metrics["best/val_f1"] == 0.5
    assert f"/runs/{view.best.run_id})" in parent.data.tags["mlflow.note.content"]
    figures = {f.path for f in client.list_artifacts(view.parent_run_id, "figures")}
    assert figures == {f"figures/{n}.png" for n in ("history", "importance", "slices")}
    table = json.loads(
        Path(client.download_artifacts(view.parent_run_id, "trials.json")).read_text()
    )
    assert len(table["data"]) == 10
    assert {"trial", "state", "val_accuracy", "n_blocks", "weights"} <= set(table["columns"])


def test_children_are_ranked_and_filtered_by_tags(done: tuple[StateFolder, StudyView]) -> None:
    state, view = done
    ranks = {r.info.run_id: r.data.tags.get("rank") for r in mlflow_children(state, view)}
    ranked = view.ranked()
    assert [ranks[row.run_id or ""] for row in ranked] == [
        f"{i + 1:04d}" for i in range(len(ranked))
    ]
    assert ranks[view.trials[4].run_id or ""] is None
    client = Store.of(state).client()
    experiment = client.get_experiment_by_name("tiny").experiment_id
    first = client.search_runs([experiment], "tags.rank = '0001' and tags.study = 'tiny'")
    assert [run.info.run_id for run in first] == [ranked[0].run_id]


def test_importance_needs_some_trials() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    assert importance(study).shares == {}
    assert "needs at least 6" in importance(study).note
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("y", 0, 1),
        n_trials=60,
    )
    assert next(iter(importance(study).shares)) == "x"
    assert importance(study).note == "fANOVA over 65 trials; without y, not in every trial"


def test_importance_of_many_trials_is_told_the_fast_way() -> None:
    study = optuna.create_study()
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("y", 0, 1),
        n_trials=101,
    )
    assert importance(study).note == "PED-ANOVA over 101 trials"
    assert next(iter(importance(study).shares)) == "x"


def test_noise_of_a_study_without_trials_is_silent() -> None:
    view = view_of(optuna.create_study())
    assert list(noise(view)) == []
    assert replicates(view) == []


POINTS = [
    Point(0, 0.7, False, {"x": 1e-4, "kind": "a"}, "plain"),
    Point(1, 0.6, False, {"x": 1e-2, "kind": "b"}, None),
    Point(2, None, True, {"x": 1e-3, "kind": "a"}, None),
    Point(3, 0.8, False, {"x": 1e-3, "kind": "b", "only": 3}, None),
]


def test_optimization_history_steps_with_the_best() -> None:
    (axes,) = optimization_history(POINTS, "val_accuracy", "maximize", "t").axes
    assert list(axes.lines[0].get_ydata()) == [0.7, 0.7, 0.8]
    assert [text.get_text() for text in axes.texts] == ["plain"]
    (down,) = optimization_history(POINTS, "val_loss", "minimize", "t").axes
    assert list(down.lines[0].get_ydata()) == [0.7, 0.6, 0.6]


def test_slices_have_a_panel_a_param_on_a_fitting_axis() -> None:
    panels = {axes.get_xlabel(): axes for axes in slices(POINTS, "m", "t").axes if axes.axison}
    assert list(panels) == ["kind", "only", "x"]
    assert panels["x"].get_xscale() == "log"
    labels = [tick.get_text() for tick in panels["x"].get_xticklabels()]
    assert {"0.001", "0.01"} <= set(labels)
    assert [tick.get_text() for tick in panels["kind"].get_xticklabels()] == ["a", "b"]
    assert len(panels["only"].collections[0].get_offsets()) == 1


def test_importance_bars_are_in_order_with_the_largest_on_top() -> None:
    (axes,) = importance_bars({"a": 0.7, "b": 0.3}, "note", "t").axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.7]


def test_view_survives_a_study_that_was_only_asked(state: StateFolder, pictures: Dataset) -> None:
    run(state, pictures, 1)
    view = views.load_view(state, "tiny")
    assert (view.metric, view.n_val) == ("val_accuracy", len(pictures.rows("val")))
