"""Promotion, its record and the way back, on real registries: never half of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from tiny_study import call, listing, register_best, settle

from catdog_search.cli import main
from catdog_search.errors import StateError
from catdog_search.machine.who import user_at_host
from catdog_search.places import StateFolder
from catdog_search.promotion.rollback import rollback
from catdog_search.search.study import views
from catdog_search.search.study.relocate import relocate
from catdog_search.search.study.storage import load_study
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.moves import Move, Note, Record
from catdog_search.tracking.registry import Registry, _time_of, register_champion
from catdog_search.tracking.store import Store

NOTE = Note("promote", "ann@here", "2026-01-02T03:04:05Z", study="tiny", trial="1")


def note(command: str) -> Note:
    return Note(command, "ann@here", "2026-01-02T03:04:05Z", "why")


def record(champion: int | None, *moves: tuple[str, int | None, int]) -> Record:
    keys = [f"{words.MOVE}{n:04d}.x" for n in range(1, len(moves) + 1)]
    texts = [Move(k, m[1], m[2], note(m[0])).text for k, m in zip(keys, moves, strict=True)]
    tags = dict(zip(keys, texts, strict=True))
    return Record.read("catdog", champion, {**tags, "team": "ours"})


FIRST, SECOND, THIRD = ("promote", None, 1), ("promote", 1, 2), ("promote", 2, 3)


@pytest.mark.parametrize(
    ("champion", "moves", "previous", "outcomes"),
    [
        (None, [], None, []),
        (1, [], None, []),
        (None, [FIRST], None, ["open"]),
        (1, [FIRST], None, ["done"]),
        (2, [FIRST, SECOND], 1, ["done", "done"]),
        (1, [FIRST, SECOND], None, ["done", "open"]),
        (3, [FIRST, SECOND, ("promote", 1, 3)], 1, ["done", "undone", "done"]),
        # What was rolled back doesn't come back.
        (1, [FIRST, SECOND, ("rollback", 2, 1)], None, ["done"] * 3),
        (2, [FIRST, SECOND, THIRD, ("rollback", 3, 2)], 1, ["done"] * 4),
        (3, [FIRST, SECOND, ("rollback", 2, 1), ("promote", 1, 3)], 1, ["done"] * 4),
        (1, [FIRST, SECOND, THIRD, ("rollback", 3, 1)], None, ["done"] * 4),
        # A version promoted before the record began, and one that somebody moved by hand.
        (7, [("promote", 4, 7)], 4, ["done"]),
        (5, [FIRST, SECOND], 2, ["done", "unclear"]),
        (6, [FIRST, ("promote", 5, 6)], 5, ["unclear", "done"]),
        (None, [FIRST, SECOND, ("promote", None, 1)], 2, ["done", "unclear", "open"]),
    ],
)
def test_previous_follows_from_the_record_and_from_what_the_alias_says(
    champion: int | None,
    moves: list[tuple[str, int | None, int]],
    previous: int | None,
    outcomes: list[str],
) -> None:
    found = record(champion, *moves)
    assert [outcome for _, outcome in found.outcomes()] == outcomes
    assert found.previous == previous
    assert (found.unfinished is not None) == ("open" in outcomes)


@pytest.mark.parametrize(
    ("key", "text"),
    [("1.x", "{"), ("1.x", "[]"), ("1.x", '{"from": 1, "to": "two"}'), ("x", NOTE.at)],
)
def test_tag_that_tells_of_no_move_is_named(key: str, text: str) -> None:
    with pytest.raises(StateError, match=r"its tag champion_move\.\S+ tells of no move"):
        Record.read("catdog", 1, {f"{words.MOVE}{key}": text})


def best(state: StateFolder) -> int:
    found = views.load_view(state, "tiny").best
    assert found is not None
    return found.number


def other_best(state: StateFolder) -> None:
    """Let the other trial be the study's best, so that promoting it is a move."""
    number = best(state)
    trial_id = load_study(state, "tiny").get_trials()[number]._trial_id
    with contextlib.closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute("update trial_values set value = -1 where trial_id = ?", (trial_id,))


@pytest.fixture
def two(home: StateFolder) -> StateFolder:
    """Two trials, both promoted one after the other."""
    other_best(home)
    register_best(home)
    settle(home)
    return home


def models(state: StateFolder, *arguments: str) -> Any:
    return json.loads(call("models", *arguments, "--json", "--state", str(state.root)).stdout)


def roll_back(state: StateFolder, *arguments: str, code: int = 0) -> str:
    where = ["--reason", "blurry photos", "--state", str(state.root)]
    return call("rollback", *arguments, *where, code=code).output


def champion(state: StateFolder) -> int | None:
    (model,) = Registry(Store.of(state)).models()
    return model.record.champion


def test_models_lists_versions_newest_first_with_who_moved_them(two: StateFolder) -> None:
    before = listing(two.root)
    (model,) = models(two)["models"]
    said = call("models", "--state", str(two.root)).output
    assert listing(two.root) == before
    newer, older = model["versions"]
    assert (newer["version"], newer["aliases"]) == (2, ["champion"])
    assert (older["version"], older["aliases"]) == (1, ["previous"])
    assert (newer["study"], newer["metric"], newer["gone"]) == ("tiny", "val_accuracy", [])
    assert (newer["move"]["from"], newer["move"]["to"]) == (1, 2)
    assert "@" in newer["move"]["by"]
    assert newer["move"]["at"].endswith("Z")
    assert [(m["from"], m["to"], m["outcome"]) for m in model["moves"]] == [
        (None, 1, "done"),
        (1, 2, "done"),
    ]
    head, first, second = said.splitlines()
    assert head.split() == [
        "model",
        "version",
        "aliases",
        "study",
        "trial",
        "on",
        "val",
        *("on", "test"),
        "registered",
        "moved",
    ]
    assert first.split()[:4] == ["catdog", "2", "champion", "tiny"]
    assert second.split()[:4] == ["catdog", "1", "previous", "tiny"]
    assert f"promote by {newer['move']['by']} at {newer['move']['at']}" in first


def test_models_shows_one_version_with_all_it_says(two: StateFolder) -> None:
    before = listing(two.root)
    said = call("models", "catdog", "--version", "1", "--state", str(two.root)).output
    found = models(two, "catdog", "--version", "1")
    assert listing(two.root) == before
    assert (found["class_names"], found["image_size"]) == (["cat", "dog"], 8)
    view = views.load_view(two, "tiny")
    row = view.trials[int(found["trial"])]
    assert (found["run_id"], found["model_id"]) == (row.run_id, row.model_id)
    assert found["dataset_digest"] == view.dataset_digest
    assert f"tag dataset_digest: {view.dataset_digest}" in said
    assert "classes cat, dog; 8 px" in said
    assert "move, done: promote to version 2 by" in said
    assert models(two, "catdog")["version"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["catdgo"], "no registered model 'catdgo'; did you mean 'catdog'? (registered: catdog)"),
        (["catdog", "--version", "7"], "'catdog' has no version 7; there are 1"),
    ],
)
def test_models_refuses_an_unknown_one_in_a_line(
    done: StateFolder, arguments: list[str], says: str
) -> None:
    before = listing(done.root)
    said = call("models", *arguments, "--state", str(done.root), code=1).output
    assert says in said
    assert len(said.splitlines()) == 1
    assert listing(done.root) == before


def test_models_of_no_state_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"no model is registered in {tmp_path}/mlruns" in call("models").output
    assert json.loads(call("models", "--json").stdout) == {"models": []}
    call("models", "catdog", code=1)
    call("rollback", "--reason", "worse", code=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none' / 'at.db'}")
    call("models")
    assert list(tmp_path.iterdir()) == []


def test_models_says_what_was_deleted(two: StateFolder) -> None:
    found = models(two, "catdog")
    client = Store.of(two).client()
    client.delete_run(found["run_id"])
    folder = two.artifacts / "tiny" / "models" / found["model_id"]
    (folder / "artifacts" / "data" / "model.keras").unlink()
    gone = [f"its run {found['run_id']} was deleted", "its files are gone"]
    assert models(two, "catdog")["gone"] == gone
    shutil.rmtree(folder)
    two.optuna_db.unlink()
    shutil.rmtree(two.root / "copies")
    gone.insert(0, f"its study 'tiny' isn't in {two.root}")
    assert models(two, "catdog")["gone"] == gone
    said = call("models", "--state", str(two.root)).output.splitlines()
    assert all(f"catdog version 2: {line}" in said for line in gone)
    alone = call("models", "catdog", "--state", str(two.root)).output.splitlines()
    assert set(gone) < set(alone)


def test_rollback_makes_the_version_before_champion_and_records_why(two: StateFolder) -> None:
    said = roll_back(two)
    assert "version 1 of 'catdog' is champion, instead of version 2: blurry photos\n" in said
    assert champion(two) == 1
    (model,) = models(two)["models"]
    move = model["moves"][-1]
    assert (move["command"], move["from"], move["to"]) == ("rollback", 2, 1)
    assert (move["reason"], move["outcome"]) == ("blurry photos", "done")
    assert model["previous"] is None
    before = listing(two.root)
    refused = roll_back(two, code=1)
    assert "'catdog' has no version before its champion" in refused
    assert len(refused.splitlines()) == 1
    assert {k: v for k, v in listing(two.root).items() if k != "registry.lock"} == {
        k: v for k, v in before.items() if k != "registry.lock"
    }
    assert "instead of version 1" in roll_back(two, "--to", "2")
    assert "is champion already; nothing was moved" in roll_back(two, "--to", "2")
    assert len(models(two)["models"][0]["moves"]) == 4


def test_rollback_asks_on_a_terminal(two: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog_search.cli.registry.on_terminal", lambda: True)
    arguments = ["rollback", "--reason", "worse", "--json", "--state", str(two.root)]
    refused = CliRunner().invoke(main, arguments, input="n\n")
    assert "make champion version 1 of 'catdog' instead of version 2?" in refused.stderr
    assert (refused.exit_code, refused.stdout, champion(two)) == (1, "", 2)
    agreed = CliRunner().invoke(main, arguments, input="y\n")
    assert json.loads(agreed.stdout)["version"] == champion(two) == 1
    call("rollback", "--to", "2", "--yes", "--reason", "better", "--state", str(two.root))


def test_who_has_no_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert user_at_host().startswith("uid 1234@")


def test_secret_in_a_reason_is_not_recorded(
    workshop: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter-two")
    register(workshop, "secret")
    where = ["--model", "secret", "--state", str(workshop.root)]
    register_best(workshop, "secret")
    said = call("rollback", "--reason", "as hunter-two\nsaid \x1b[31m", *where).output
    assert "champion, instead of version 2: as *** said \\x1b[31m\n" in said
    moves = Registry(Store.of(workshop)).model("secret").record.moves
    assert moves[-1].note.reason == "as *** said \\x1b[31m"


def test_rollback_refuses_a_version_without_files_or_that_was_deleted(two: StateFolder) -> None:
    found = models(two, "catdog", "--version", "1")
    model = two.artifacts / "tiny" / "models" / found["model_id"]
    shutil.rmtree(model)
    said = roll_back(two, "--yes", code=1)
    assert "version 1 of 'catdog' can't be champion: its files are gone" in said
    Store.of(two).client().delete_model_version("catdog", "1")
    assert "version 1 of 'catdog', the one before, was deleted; --to" in roll_back(two, code=1)
    assert "'catdog' has no version 1; there are 2" in roll_back(two, "--to", "1", code=1)
    assert (champion(two), len(models(two)["models"][0]["moves"])) == (2, 2)


def test_champion_from_before_the_record_is_shown_and_followed(home: StateFolder) -> None:
    client = Store.of(home).client()
    for key in client.get_registered_model("catdog").tags:
        client.delete_registered_model_tag("catdog", key)
    assert models(home, "catdog")["move"] is None
    assert "not recorded" in call("models", "--state", str(home.root)).output
    assert "no version before" in roll_back(home, code=1)
    other_best(home)
    register_best(home)
    assert "instead of version 2" in roll_back(home)


# Every write to the registry, in the order of a promotion that makes the registered model too.
WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_logged_model_tags",
    "set_registered_model_tag",
    "set_registered_model_alias",
)
READS = ("get_registered_model", "search_model_versions", "get_logged_model")


@pytest.fixture(scope="module")
def workshop(done: StateFolder, tmp_path_factory: pytest.TempPathFactory) -> StateFolder:
    """A state like `done`, in which each test has a registered model of its own name."""
    root = tmp_path_factory.mktemp("workshop") / "state"
    shutil.copytree(done.root, root)
    state = StateFolder.at(str(root))
    relocate(state)
    return state


def register(state: StateFolder, name: str) -> None:
    """Let the worse trial's model be champion under a name."""
    view = views.load_view(state, "tiny")
    worse = next(row for row in view.trials if row.number != best(state))
    assert worse.model_id is not None
    register_champion(Store.of(state), name, worse.model_id, {})


@pytest.mark.parametrize("worked", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("had", "step"),
    [*((None, step) for step in (*WRITES, *READS)), (1, WRITES[-2]), (1, WRITES[-1])],
)
def test_promotion_that_fails_at_any_step_is_never_half_and_the_next_ends_it(
    had: int | None,
    step: str,
    worked: bool,
    workshop: StateFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{step}-{worked}-{had}"
    client, newest = Store.of(workshop).client(), 1 + (had or 0)
    if had:
        register(workshop, name)
    real = getattr(MlflowClient, step)

    def fail(self: MlflowClient, *args: Any, **options: Any) -> None:
        if worked:
            real(self, *args, **options)
        raise ConnectionResetError("the registry went away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, fail)
        with pytest.raises(StateError) as caught:
            register_best(workshop, name)
    assert "\n" not in str(caught.value)
    # What fails after the one write that counts is only the look at it.
    alias = newest if worked and step == "set_registered_model_alias" else had
    known = {model.name: model for model in Registry(Store.of(workshop)).models()}
    assert (known[name].record.champion if name in known else None) == alias
    register_best(workshop, name)
    model = Registry(Store.of(workshop)).model(name)
    assert (model.record.champion, len(model.versions)) == (newest, newest)
    outcomes = [outcome for _, outcome in model.record.outcomes()]
    assert outcomes[-1] == "done"
    assert "open" not in outcomes
    logged = client.get_logged_model(model.versions[0].model_id)
    links = json.loads(logged.tags[words.MODEL_VERSIONS])
    assert [int(each["version"]) for each in links if each["name"] == name] == [newest]


def test_move_that_was_cut_off_is_told_and_then_marked(
    workshop: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(workshop, "cut")
    where = ["--state", str(workshop.root)]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", _refuse)
        with pytest.raises(StateError):
            register_best(workshop, "cut")
    begun = "was begun and didn't happen; the next promote or rollback marks it so"
    assert begun in call("models", "cut", *where).output
    assert f"cut: promote to version 2 by {user_at_host()} at " in call("models", *where).output
    # One that moves nothing marks it too.
    register(workshop, "cut")
    assert begun not in call("models", "cut", *where).output
    found = json.loads(call("models", "cut", "--json", *where).stdout)
    assert [move["outcome"] for move in found["moves"]] == ["done", "undone"]
    assert found["version"] == 1


def _refuse(*_: Any, **__: Any) -> None:
    raise ConnectionResetError("the registry went away")


def test_alias_that_somebody_else_moves_meanwhile_is_told(
    workshop: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(workshop, "raced")
    real = MlflowClient.set_registered_model_alias

    def overtaken(self: MlflowClient, name: str, alias: str, version: str) -> None:
        real(self, name, alias, version)
        real(self, name, alias, "1")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", overtaken)
        told = "somebody else moved the alias meanwhile: it names version 1;"
        with pytest.raises(StateError, match=told) as caught:
            register_best(workshop, "raced")
    assert "\n" not in str(caught.value)


def test_rollback_asked_of_another_champion_is_refused(
    workshop: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "two-rollbacks"
    register(workshop, name)
    register_best(workshop, name)

    def other_first(target: int, before: int | None) -> None:
        rollback(workshop, name, "mine came first")

    with pytest.raises(
        StateError, match=r"somebody else has moved champion .* from version 2 to 1"
    ):
        rollback(workshop, name, "worse", agree=other_first)
    moves = Registry(Store.of(workshop)).model(name).record.outcomes()
    assert [(move.note.reason, outcome) for move, outcome in moves[2:]] == [
        ("mine came first", "done")
    ]


_PROMOTE = """
import os, signal, sys, time
from mlflow import MlflowClient
from catdog_search.places import StateFolder
from tiny_study import register_best

real = MlflowClient.set_registered_model_alias
def alias(self, *arguments):
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)  # long enough for another to come between, if it could
    real(self, *arguments)
MlflowClient.set_registered_model_alias = alias
print(register_best(StateFolder.at(sys.argv[2]), sys.argv[3]).previous)
"""


def _process(how: str, state: StateFolder, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PROMOTE, how, str(state.root), name]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=env, text=True, **out)


def test_promotion_that_is_killed_is_ended_by_the_next_and_two_at_once_wait(
    workshop: StateFolder,
) -> None:
    name = "killed"
    register(workshop, name)
    killed = _process("die", workshop, name)
    assert killed.communicate(timeout=120) == ("", None)
    assert killed.returncode == -signal.SIGKILL
    model = Registry(Store.of(workshop)).model(name)
    assert (model.record.champion, len(model.versions)) == (1, 2)
    assert model.record.unfinished is not None
    both = [_process("wait", workshop, name) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(text.splitlines()[-1] for text in said) == ["1", "None"]
    found = Registry(Store.of(workshop)).model(name)
    outcomes = [(move.before, move.to, outcome) for move, outcome in found.record.outcomes()]
    assert outcomes == [(None, 1, "done"), (1, 2, "undone"), (1, 2, "done")]
    assert len(found.versions) == 2


@pytest.mark.parametrize("found", ["x", None, -(10**20), float("nan")])
def test_time_of_a_damaged_row_is_told_as_unreadable(found: object) -> None:
    assert _time_of(found).startswith("unreadable (")
