"""Every write and every delete of a file lies below the state's own artifacts, or is refused."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from PIL import Image
from tiny_study import TABLE, listing, run

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyFileError
from catdog_search.places import StateFolder
from catdog_search.retry import Retry
from catdog_search.search.study import views
from catdog_search.search.study.relocate import relocate
from catdog_search.study import studies
from catdog_search.tracking.confine import require_below
from catdog_search.tracking.models import log_model
from catdog_search.tracking.own import Client
from catdog_search.tracking.runs import StudyRuns
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import delete_files


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    root = tmp_path / "state" / "artifacts"
    (root / "tiny" / "run").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    "location",
    [
        "{state}/artifacts/tiny",
        "{state}/artifacts",
        "{state}/other",
        "file://{state}/artifactsX/tiny",
        "file://{state}/artifacts/../other",
        "file://{state}/artifacts/tiny/../../..",
        "file://{state}/artifacts/%2E%2E/other",
        "file://host{state}/artifacts/tiny",
        "artifacts/tiny",
        "s3://bucket/artifacts/tiny",
        "file:///",
        "",
    ],
)
def test_location_is_own_only_below_the_artifacts(artifacts: Path, location: str) -> None:
    given = location.replace("{state}", str(artifacts.parent))
    if location == "{state}/artifacts/tiny":
        assert require_below(artifacts, given, "run") == artifacts / "tiny" / "run"
        return
    with pytest.raises(StateError, match="outside of this state's"):
        require_below(artifacts, given)


def out(artifacts: Path) -> Path:
    (artifacts / "tiny" / "link").symlink_to(artifacts.parents[1])
    return artifacts / "tiny" / "link" / "x"


def to_another_run(artifacts: Path) -> Path:
    (artifacts / "tiny" / "link").symlink_to(artifacts / "tiny" / "run")
    return artifacts / "tiny" / "link"


def to_itself(artifacts: Path) -> Path:
    (artifacts / "tiny" / "link").symlink_to(artifacts / "tiny" / "link")
    return artifacts / "tiny" / "link" / "x"


def to_nowhere(artifacts: Path) -> Path:
    (artifacts / "tiny" / "link").symlink_to("/gone")
    return artifacts / "tiny" / "link" / "x"


@pytest.mark.parametrize("link", [out, to_another_run, to_itself, to_nowhere])
def test_link_inside_of_the_artifacts_is_refused_with_the_cure(
    artifacts: Path, link: Callable[[Path], Path]
) -> None:
    path = link(artifacts)
    with pytest.raises(StateError, match="is a link, and inside") as caught:
        require_below(artifacts, path.as_uri())
    assert str(artifacts / "tiny" / "link") in str(caught.value).split("`")[1]


def test_artifacts_as_a_whole_may_be_a_link(artifacts: Path, tmp_path: Path) -> None:
    artifacts.rename(tmp_path / "disk")
    artifacts.symlink_to(tmp_path / "disk")
    for spelled in (artifacts, tmp_path / "disk"):
        require_below(artifacts, (spelled / "tiny").as_uri(), "run")


def test_delete_ends_at_links(artifacts: Path, tmp_path: Path, empty_mlflow: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    (artifacts / "tiny" / "run" / "inner").symlink_to(kept)
    (artifacts / "tiny" / "outer").symlink_to(kept)
    client = client_of(artifacts, empty_mlflow)
    client.remove("run", (artifacts / "tiny" / "run").as_uri())
    with pytest.raises(StateError, match="is a link"):
        client.remove("tiny", (artifacts / "tiny").as_uri(), "outer")
    assert not (artifacts / "tiny" / "run").exists()
    assert (kept / "file").exists()


def client_of(artifacts: Path, empty_mlflow: Path) -> Client:
    shutil.copy(empty_mlflow, artifacts.parent / "mlflow.db")
    return Store(f"sqlite:///{artifacts.parent / 'mlflow.db'}", artifacts).client()


def test_delete_takes_no_sign_of_a_path_for_an_escape(
    artifacts: Path, tmp_path: Path, empty_mlflow: Path
) -> None:
    client = client_of(artifacts, empty_mlflow)
    own, other = (artifacts / name / "run" for name in ("a%20b", "a b"))
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    client.remove("run", own.as_uri())
    assert (own.exists(), other.exists()) == (False, True)


def test_delete_takes_nothing_of_another_owner(
    artifacts: Path, tmp_path: Path, empty_mlflow: Path
) -> None:
    client = client_of(artifacts, empty_mlflow)
    for location in (artifacts / "tiny", artifacts / "tiny" / "run"):
        with pytest.raises(StateError, match="or not that of m-1"):
            client.remove("m-1", location.as_uri())
    assert (artifacts / "tiny" / "run").exists()


def test_nothing_is_made_anew_where_the_state_is_gone(artifacts: Path, tmp_path: Path) -> None:
    artifacts.parent.rename(tmp_path / "moved")
    with pytest.raises(StateError, match="is gone; was it moved meanwhile"):
        require_below(artifacts, (artifacts / "tiny").as_uri())
    with pytest.raises(StateError, match="is gone; was it moved meanwhile"):
        Store(f"sqlite:///{artifacts.parent}/mlflow.db", artifacts).require_folder()
    assert not artifacts.parent.exists()


@pytest.fixture
def outside(home: StateFolder, tmp_path: Path) -> Path:
    """Another state's artifacts, which every row of this one's store names."""
    other = tmp_path / "other"
    shutil.copytree(home.artifacts, other)
    with closing(sqlite3.connect(home.mlflow_db)) as connection, connection:
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            connection.execute(
                f"update {table} set {column} = replace({column}, ?, ?)",
                (home.artifacts.as_uri(), other.as_uri()),
            )
    return other


def test_nothing_is_written_or_deleted_where_a_store_says_outside(
    home: StateFolder, outside: Path
) -> None:
    view = views.load_view(home, "tiny")
    uid = views.load_study(home, "tiny").user_attrs["study_uid"]
    runs = StudyRuns.open(Store.of(home), "tiny", uid)
    row = view.trials[0]
    run_id, model_id = row.run_id or "", row.model_id
    client = runs._client
    before = listing(outside), listing(home.artifacts)
    figure, picture = Figure(), Image.new("RGB", (1, 1))
    acts: list[Callable[[], object]] = [
        lambda: client.log_text(run_id, "x", "x.txt"),
        lambda: client.log_dict(run_id, {}, "x.json"),
        lambda: client.log_figure(run_id, figure, "figures/x.png"),
        lambda: runs.log_contact_sheet("val", picture),
        lambda: client.log_artifact(run_id, __file__),
        lambda: delete_files(client, run_id),
        lambda: runs.drop(run_id, None),
        lambda: runs.abandon(run_id),
        lambda: [runs.drop("", row.model_id) for row in view.trials],
        lambda: runs.log_files({"x.txt": "x"}),
        lambda: runs.log_study({}, {}),
    ]
    for act in acts:
        with pytest.raises(StateError, match=r"outside of this state's .*, so nothing was"):
            act()
    assert (listing(outside), listing(home.artifacts)) == before
    assert client.get_logged_model(model_id)


def test_model_is_not_logged_where_its_experiment_says_outside(
    home: StateFolder, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(home.mlflow_db)) as connection, connection:
        connection.execute("update experiments set artifact_location = ?", (str(tmp_path / "x"),))
    client = Store.of(home).client()
    run_id = views.load_view(home, "tiny").trials[0].run_id or ""
    with pytest.raises(StateError, match="outside of this state's"):
        log_model(client, run_id, None, "tensorflow", {}, None, Retry(""))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name", ["Default", "scratch", "models", "artifacts", "a..", "0", "default"]
)
@pytest.mark.parametrize("opened_before", [False, True])
def test_study_of_any_name_keeps_its_artifacts_in_its_state(
    state: StateFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    opened_before: bool,
) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    studies.parse({**TABLE, "name": name}, "t")
    if opened_before:
        Store.of(state).client()
    runs = StudyRuns.open(Store.of(state), name, "uid")
    runs.log_files({"x.txt": "x"})
    assert list(state.artifacts.rglob("*.txt")) == [
        state.artifacts / name / runs.parent_id / "artifacts" / "x.txt"
    ]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "a/b",
        "/a",
        "a\\b",
        "a b",
        " a",
        "a ",
        "a\n",
        "a'b",
        'a"b',
        "~",
        "-a",
        ".a",
        "ä",
        "",
    ],
)
def test_study_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(StudyFileError, match="name"):
        studies.parse({**TABLE, "name": name}, "t")


def test_experiment_of_another_state_is_refused_before_anything_is_written(
    home: StateFolder,
    state: StateFolder,
    pictures: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_db}")
    before = listing(home.root)
    with pytest.raises(StateError, match="give the study another name") as caught:
        run(state, pictures, 1)
    assert str(home.artifacts / "tiny") in str(caught.value)
    assert listing(home.root) == before
    assert not state.optuna_db.exists()
    assert not state.artifacts.exists()


def test_default_of_a_store_of_several_is_left_as_it_is(
    home: StateFolder, state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_db}")
    with pytest.raises(StateError, match="experiment 'Default' keeps its artifacts in"):
        StudyRuns.open(Store.of(state), "Default", "uid")


def test_run_remembered_from_another_folder_is_written_where_its_store_says(
    home: StateFolder, tmp_path: Path
) -> None:
    """MLflow keeps a run's place in memory, by an id that a copy of the store has too."""
    run_id = views.load_view(home, "tiny").trials[0].run_id or ""
    Store.of(home).client()
    MlflowClient(Store.of(home).uri).log_artifact(run_id, __file__)
    other = tmp_path / "other"
    shutil.copytree(home.root, other)
    relocate(StateFolder.at(str(other)))
    before = listing(home.artifacts)
    Store.of(StateFolder.at(str(other))).client().log_text(run_id, "x", "x.txt")
    assert listing(home.artifacts) == before
    assert len(list(other.rglob("x.txt"))) == 1
