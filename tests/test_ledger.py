"""The ledger of looks at photos of test, on real registries: no look is lost, none is half."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tiny_study import call, listing

from catdog_search.errors import StateError
from catdog_search.machine.who import user_at_host
from catdog_search.places import StateFolder
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Ledger, Look, Looks, digest_of
from catdog_search.tracking.numbered import number
from catdog_search.tracking.registry import Registry, register_champion
from catdog_search.tracking.store import Store


def shorts(*numbers: int) -> list[str]:
    return [f"{n:016x}" for n in numbers]


A, B, C = shorts(1, 2, 3), shorts(3, 4), shorts(5, 6)


@pytest.fixture
def run_id(state: StateFolder) -> str:
    return new_run(state)


def new_run(state: StateFolder) -> str:
    client = Store.of(state).client()
    where = (state.artifacts / "tiny").as_uri()
    found = client.get_experiment_by_name("tiny")
    made = found.experiment_id if found else client.create_experiment("tiny", where)
    return str(client.create_run(made, "trial 1", {}).info.run_id)


@pytest.fixture
def ledger(state: StateFolder) -> Ledger:
    return Ledger(state, Store.of(state))


def look(ledger: Ledger, run_id: str, hashes: list[str], **more: Any) -> Look:
    told = {"command": "evaluate catdog", "model": "models:/catdog@champion", "model_id": "m-1"}
    return ledger.write(**{**told, "run_id": run_id, "hashes": hashes, **more})


def tags(state: StateFolder) -> dict[str, str]:
    return dict(Registry(Store.of(state)).tags(words.LEDGER))


def forget_hashes(state: StateFolder) -> None:
    """As where another machine looked, and its run's files are gone."""
    for path in state.root.rglob("looks/*.json"):
        path.unlink()


def test_look_is_one_tag_and_an_echo_that_say_who_when_what_and_which(
    state: StateFolder, ledger: Ledger, run_id: str
) -> None:
    made = look(ledger, run_id, [*A, A[0]])
    assert ledger.looks(A) == Looks((made,))
    ((key, text),) = tags(state).items()
    assert key == made.key
    assert key.startswith("test_look.0001.")
    assert json.loads(text) == {
        "by": user_at_host(), "at": made.at, "command": "evaluate catdog",
        "model": "models:/catdog@champion", "model_id": "m-1", "run_id": run_id,
        "digest": digest_of(A), "n": 3, "again": False,
    }  # fmt: skip
    assert made.at.endswith("Z")
    (line,) = (state.root / "looks" / "ledger.jsonl").read_text().splitlines()
    assert json.loads(line) == {"key": key, **json.loads(text)}
    kept = state.root / "looks" / f"{digest_of(A)}.json"
    (beside,) = state.artifacts.rglob(f"looks/{digest_of(A)}.json")
    assert json.loads(kept.read_text()) == json.loads(beside.read_text()) == A
    assert look(ledger, run_id, A, again=True).key.startswith("test_look.0002.")


def test_set_inherits_the_looks_of_every_set_that_it_shares_a_photo_with(
    ledger: Ledger, run_id: str
) -> None:
    first, second = look(ledger, run_id, A), look(ledger, run_id, B, model_id="m-2")
    assert ledger.looks(A).known == ledger.looks(B).known == (first, second)
    assert ledger.looks(shorts(1, 9)).known == (first,)
    assert ledger.looks(C) == Looks(())
    assert ledger.of_model("m-2", A) == (second,)
    assert ledger.of_model("m-3", A) == ()
    assert ledger.covered([*A, *C]) == set(A)


def test_hashes_are_found_beside_the_run_where_this_machine_has_no_echo(
    state: StateFolder, ledger: Ledger, run_id: str
) -> None:
    made = look(ledger, run_id, A)
    shutil.rmtree(state.root / "looks")
    assert Ledger(state, Store.of(state)).looks(shorts(1)) == Looks((made,))


def test_look_whose_photos_nobody_knows_counts_for_its_digest_and_is_told(
    state: StateFolder, ledger: Ledger, run_id: str
) -> None:
    made = look(ledger, run_id, A)
    forget_hashes(state)
    lost = Ledger(state, Store.of(state))
    assert lost.looks(A[::-1]) == Looks((made,))
    assert lost.looks(C) == lost.looks(A[:1]) == Looks((), (made,))
    assert (lost.covered(A[:1]), lost.covered(A)) == (set(), set(A))
    assert "of 1 look the photos are no longer known" in str(lost.looks(C))
    # Another look at the same photos lets them be known again.
    look(lost, run_id, A)
    assert len(Ledger(state, Store.of(state)).looks(A[:1]).known) == 2


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", json.dumps(C), "[" * 9999])
def test_hashes_that_are_not_those_of_the_digest_are_not_believed(
    state: StateFolder, ledger: Ledger, run_id: str, text: str
) -> None:
    made = look(ledger, run_id, A)
    for path in state.root.rglob("looks/*.json"):
        path.write_text(text)
    assert Ledger(state, Store.of(state)).looks(C) == Looks((), (made,))


def test_echo_outlives_a_registry_that_was_lost_and_tags_that_were_removed(
    state: StateFolder, ledger: Ledger, run_id: str, empty_mlflow: Path
) -> None:
    first, second = look(ledger, run_id, A), look(ledger, run_id, A)
    Store.of(state).client().delete_registered_model_tag(words.LEDGER, first.key)
    assert ledger.looks(A).known == (first, second)
    other = StateFolder.at(str(state.root.parent / "other"))
    shutil.copytree(state.root / "looks", other.root / "looks")
    assert Ledger(other, Store.of(other)).looks(A).known == (first, second)
    assert sorted(p.name for p in other.root.iterdir()) == ["looks"]  # reading made no store


def test_reading_changes_nothing(state: StateFolder, ledger: Ledger, run_id: str) -> None:
    look(ledger, run_id, A)
    before = listing(state.root)
    Ledger(state, Store.of(state)).looks(B)
    assert listing(state.root) == before


STEPS: dict[str, tuple[Any, str]] = {
    "hashes here": ("catdog_search.tracking.ledger", "write_whole"),
    "hashes beside the run": (MlflowClient, "log_text"),
    "ledger": (MlflowClient, "create_registered_model"),
    "tag": (MlflowClient, "set_registered_model_tag"),
    "echo": (Ledger, "_echo"),
    "copy": (Store, "keep_copy"),
}


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.mark.parametrize("worked", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_kill_at_any_step_leaves_a_whole_look_or_none(
    state: StateFolder,
    ledger: Ledger,
    run_id: str,
    step: str,
    worked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, name = STEPS[step]
    place = sys.modules[place] if isinstance(place, str) else place
    real = getattr(place, name)

    def killed(*args: Any, **options: Any) -> None:
        if worked:
            real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            look(ledger, run_id, A)
    stands = step in ("echo", "copy") or (step == "tag" and worked)
    found = Ledger(state, Store.of(state)).looks(B)  # shares a photo: its hashes are known
    assert (len(found.known), found.unknown) == (int(stands), ())
    look(ledger, run_id, B)
    lines = (state.root / "looks" / "ledger.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(tags(state))
    assert len(lines) == 1 + stands


@pytest.mark.parametrize("step", STEPS)
def test_look_that_cannot_be_recorded_is_refused_in_a_line(
    state: StateFolder, ledger: Ledger, run_id: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = STEPS[step]
    place = sys.modules[place] if isinstance(place, str) else place

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system", str(state.root / "looks"))

    monkeypatch.setattr(place, name, refuse)
    with pytest.raises(StateError, match=r"so none was looked at: .*[Rr]ead-only") as refused:
        look(ledger, run_id, A)
    assert "\n" not in str(refused.value)


def test_run_that_is_gone_keeps_no_hashes_so_that_nobody_looks(
    state: StateFolder, ledger: Ledger
) -> None:
    with pytest.raises(StateError, match="so none was looked at: "):
        look(ledger, "0" * 32, A)
    assert tags(state) == {}


_WRITE = """
import sys
from catdog_search.places import StateFolder
from catdog_search.tracking.ledger import Ledger
from catdog_search.tracking.store import Store
state = StateFolder.at(sys.argv[1])
ledger = Ledger(state, Store.of(state))
ledger.looks([])
print("ready", flush=True)
sys.stdin.readline()
for i in range(5):
    ledger.write(command=f"evaluate {i}", model="m", model_id=sys.argv[3], run_id=sys.argv[2],
                 hashes=[f"{i:016x}", f"{99:016x}"])
"""


def test_two_processes_at_once_leave_all_looks(state: StateFolder, run_id: str) -> None:
    run_ids = [run_id, new_run(state)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(state.root), run, f"m-{run}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for run in run_ids
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n", timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = Ledger(state, Store.of(state)).looks(shorts(99)).known
    assert len(found) == len(tags(state)) == 10
    for run in run_ids:
        assert [e.command for e in found if e.run_id == run] == [f"evaluate {i}" for i in range(5)]


def test_long_text_is_cut_to_what_a_tag_may_hold_and_secrets_are_left_out(
    state: StateFolder, ledger: Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter-two")
    monkeypatch.setattr("catdog_search.tracking.ledger.user_at_host", lambda: "ü" * 9999)
    long = '\x1b[31m\n😀"\\' * 5000
    model_id = f"é{long}/1"
    made = look(ledger, run_id, A, command=f"as hunter-two {long}", model=long, model_id=model_id)
    (text,) = tags(state).values()
    assert len(text) < 5000
    assert made.command.startswith("as *** \\x1b[31m 😀")
    assert made.command.endswith("…")
    assert "hunter" not in (state.root / "looks" / "ledger.jsonl").read_text() + text
    assert ledger.looks(A).known == ledger.of_model(model_id, A) == (made,)


GOOD = Look("", "a@b", "2026-01-02T03:04:05Z", "evaluate", "m", "m-1", "r", "0" * 64, 3)


def changed(**facts: Any) -> str:
    return json.dumps({**json.loads(GOOD.text), **facts})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("1.x", "{"),
        ("1.x", "[]"),
        ("1.x", "{}"),
        ("1.x", "[" * 50_000),
        ("x", GOOD.text),
        ("1.x", changed(digest="../../x")),
        ("1.x", changed(n="3")),
        ("1.x", changed(again=1)),
        ("1.x", changed(by=None)),
    ],
)
def test_tag_or_line_that_tells_of_no_look_is_named(
    state: StateFolder, ledger: Ledger, key: str, text: str
) -> None:
    registry = Registry(Store.of(state))
    registry.tag(words.LEDGER, "team", "ours", "")
    assert ledger.looks(A) == Looks(())
    registry.tag(words.LEDGER, f"{words.LOOK}{key}", text, "")
    with pytest.raises(StateError, match=r"its tag test_look\.\S+ tells of no look .* in MLflow"):
        ledger.looks(A)
    Store.of(state).client().delete_registered_model_tag(words.LEDGER, f"{words.LOOK}{key}")
    echo = state.root / "looks" / "ledger.jsonl"
    echo.parent.mkdir()
    echo.write_text(f"\n{text}\n")
    with pytest.raises(StateError, match=r"ledger\.jsonl: its line 2 tells of no look"):
        ledger.looks(A)


def test_line_that_was_cut_off_does_not_spoil_the_next(
    state: StateFolder, ledger: Ledger, run_id: str
) -> None:
    look(ledger, run_id, A)
    echo = state.root / "looks" / "ledger.jsonl"
    whole = echo.read_text()
    echo.write_text(whole.removesuffix("\n"))
    look(ledger, run_id, A)
    assert echo.read_text().startswith(whole)
    assert len(ledger.looks(A).known) == 2


@pytest.mark.parametrize(
    ("n", "says"),
    [
        (0, "these photos had not been looked at before"),
        (1, "these photos have been looked at once before (last: a@b, 2026-01-02T03:04:05Z, e"),
        (3, "these photos have been looked at 3 times before (last: "),
    ],
)
def test_looks_are_told_in_a_line(n: int, says: str) -> None:
    assert str(Looks((GOOD,) * n)).startswith(says)
    lost = str(Looks((GOOD,) * n, (GOOD, GOOD)))
    assert lost.endswith("as far as is known: of 2 looks the photos are no longer known")


def test_ledger_is_no_model(home: StateFolder, photo_folder: Path) -> None:
    where = ["--state", str(home.root)]
    client = Store.of(home).client()
    model_id = json.loads(call("models", "catdog", "--json", *where).stdout)["model_id"]
    ledger = Ledger(home, Store.of(home))
    look(ledger, client.get_logged_model(model_id).source_run_id, A)
    found = client.get_registered_model(words.LEDGER)
    assert "one tag a look" in found.description
    rows = json.loads(call("models", "--json", *where).stdout)["models"]
    assert [row["name"] for row in rows] == ["catdog"]
    for command in (
        ["models", words.LEDGER],
        ["rollback", "--model", words.LEDGER, "--reason", "no"],
        ["evaluate", words.LEDGER, "--data", str(photo_folder)],
    ):
        said = call(*command, *where, code=1).output
        assert "registered: catdog" in said
    for name in (words.LEDGER, words.LEDGER.title()):
        with pytest.raises(StateError, match="is the ledger of looks at photos of test"):
            register_champion(Store.of(home), name, model_id, {})


def test_machines_on_one_server_know_of_each_others_looks(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    one, other = (StateFolder.at(str(tmp_path / name)) for name in ("one", "other"))
    client = Store.of(one).client()
    experiment = client.create_experiment("looked-at")
    run = client.create_run(experiment, "trial 1", {}).info.run_id
    photos = shorts(71, 72)
    mine = look(Ledger(one, Store.of(one)), run, photos)
    theirs = Ledger(other, Store.of(other))
    assert theirs.looks(shorts(72, 73)).known == (mine,)
    assert not other.root.exists()
    second = look(theirs, run, shorts(72, 73), again=True)
    # Others may have looked meanwhile: the server is that of all tests.
    assert number(words.LOOK, second.key) > number(words.LOOK, mine.key)
    assert Ledger(one, Store.of(one)).looks(photos).known == (mine, second)
