"""Text of others is data wherever something would interpret it: paths, names, purposes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from tiny_study import TABLE, assert_stores_agree, run

from catdog_search import cli
from catdog_search.cli.display import LiveDisplay
from catdog_search.data.dataset import Dataset
from catdog_search.errors import CatdogError, DataError, StateError, StudyFileError
from catdog_search.markup import as_figure_text, as_markdown, without_escapes
from catdog_search.places import StateFolder
from catdog_search.search.events import Event, Notice, StudyOpened, TrialStarted
from catdog_search.search.study.reconcile import reconcile
from catdog_search.study import studies
from catdog_search.tracking.filters import equals
from catdog_search.tracking.registry import register_champion
from catdog_search.tracking.store import Store, sqlite_file, sqlite_uri

RECIPE = "$x_{$ [/] [red]\x1b[31m\nb\\"
PURPOSE = "<b>What</b> *matters*?\n[this](javascript:x) | `that`"
# What an URL, a shell, a template, Markdown or SQLAlchemy would take for its own.
FOLDER = "a b#c&d=e'f\"g+é猫{x}:;@[y]$HOME!*|\\<z>,100 %"


def test_study_in_a_folder_of_any_name_stays_there(pictures: Dataset, tmp_path: Path) -> None:
    state = StateFolder.at(str(tmp_path / FOLDER))
    state.create()
    table = {
        "purpose": PURPOSE,
        "keep_models": 1,
        "recipes": {RECIPE: TABLE["recipes"]["plain"]},
    }
    report = run(state, pictures, 3, table=table, drawn=True)
    assert report.view.counts == {"COMPLETE": 3}
    assert_stores_agree(state)
    assert reconcile(state, "tiny", repair=False) == []
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
    assert report.view.trials[0].recipe == RECIPE
    client = Store.of(state).client()
    parent = client.get_run(report.view.parent_run_id)
    assert parent.data.tags["mlflow.note.content"].startswith(as_markdown(PURPOSE))
    first = client.get_run(report.view.trials[0].run_id)
    assert first.info.run_name == r"$x_{$ [/] [red]\x1b[31m\x0ab" + "\\"
    # Figures are drawn, and those of trials that fell out of the best removed.
    kept = [row for row in report.view.trials if client.list_artifacts(row.run_id, "figures")]
    assert [row.number for row in kept] == [report.view.best.number if report.view.best else None]
    runner = CliRunner()
    for command in (["show", "--study", "tiny"], ["show", "--study", "tiny", "--trial", "0"]):
        shown = runner.invoke(cli.main, [*command, "--state", str(state.root)])
        assert shown.exit_code == 0, shown.output
        assert "\x1b" not in shown.output
    assert r"[red]\x1b[31m\x0ab" in shown.output


@pytest.mark.parametrize(
    "name", ["a?b", "a%20b", "50%25", "a%2Fb", "b\udce9b", "a\nb", "a\x1b[31mb", "sub?/b"]
)
def test_folder_that_would_be_taken_for_another_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["doctor"], ["run", "--study", "quick"], ["show", "--study", "quick"]):
        done = CliRunner().invoke(cli.main, [*arguments, "--state", str(tmp_path / name)])
        assert done.exit_code == 1
        assert "choose another with --state" in done.output
        assert "\x1b" not in done.output
        assert done.output.count("\n") == 1
    with pytest.raises(StateError):
        StateFolder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["sqlite:///{}?x=1", "sqlite:///{}/a%20b.db", "sqlite:///{}/a?b/c"])
def test_database_that_would_be_taken_for_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path / "x"))
    with pytest.raises(StateError, match="may be read as"):
        Store.of(StateFolder.at(str(tmp_path / "state")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.db", "a b#c", "é'\"", "x@y:z", "100 %"])
def test_uri_of_a_file_is_read_as_that_file(name: str) -> None:
    path = Path("/tmp") / name
    assert sqlite_file(sqlite_uri(path)) == path
    assert sqlite_uri(path).endswith(str(path))  # as MLflow reads it, by hand
    assert sqlite_file("sqlite:///rel.db") == Path("rel.db")
    assert sqlite_file("sqlite:///:memory:") is None
    assert sqlite_file("postgresql://h/db") is None


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("plain", "name = 'plain'"),
        ("o'brien", 'name = "o\'brien"'),
        ("x' or name = 'y", "name = \"x' or name = 'y\""),
        ('a "b"', "name = 'a \"b\"'"),
    ],
)
def test_condition_holds_a_name_with_quotes(value: str, condition: str) -> None:
    assert equals("name", value) == condition


def test_condition_refuses_both_kinds_of_quote() -> None:
    with pytest.raises(StateError, match="both"):
        equals("name", "'\"")


def test_registered_model_of_any_name_is_found_again(state: StateFolder) -> None:
    client = Store.of(state).client()
    for name in ("o'brien", 'a "b"', "x' or name like '%"):
        client.create_registered_model(name)
        client.create_model_version(name, (state.root / "x").as_uri())
        assert [v.name for v in client.search_model_versions(equals("name", name))] == [name]


def test_model_name_with_an_alias_in_it_is_refused(state: StateFolder) -> None:
    with pytest.raises(StateError, match="parts a model's name from its alias"):
        register_champion(Store.of(state), "a@b", "m-1", {})


def test_markdown_shows_text_as_it_is() -> None:
    assert as_markdown("a*b_c [x](y) <b>|`") == r"a\*b\_c \[x\](y) &lt;b&gt;\|\`"
    assert as_markdown("two\nlines\x1b") == "two\nlines\\\\x1b"
    assert without_escapes(f"# {as_markdown('a*b_c [x](y) <b>|`')}") == "# a*b_c [x](y) <b>|`"


def test_figure_text_is_cut_before_it_is_escaped() -> None:
    assert as_figure_text("$" * 9, most=4) == r"\$\$\$…"


@pytest.mark.parametrize("kind", [CatdogError, DataError, StateError, StudyFileError])
def test_error_is_one_line_whatever_it_is_made_of(kind: type[CatdogError]) -> None:
    text = str(kind("file a\nb\x1b[31m\udce9 at http://u:p@h"))
    assert text == r"file a\x0ab\x1b[31m\xe9 at http://h"


def display(name: str) -> str:
    """What the live table shows of a recipe."""
    recipes = {name: TABLE["recipes"]["plain"]}
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    live = LiveDisplay(studies.parse({**TABLE, "recipes": recipes}, "t"), console)
    events: list[Event] = [
        StudyOpened(studies.parse(TABLE, "t"), 0, 3, None, "sqlite:///x"),
        TrialStarted(0, {"dropout": 0.1}, name, 1, 3),
        Notice(f"recipe {name} is there"),
    ]
    for event in events:
        live(event)
    console.print(live.render())
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@pytest.mark.parametrize("name", ["[/]", "[bold]x[/bold]", "[link=http://x]y", ":cat:", "\x1b[31m"])
def test_live_table_reads_no_markup_in_names(name: str) -> None:
    shown = display(name)
    expected = name.replace("\x1b", r"\x1b")
    assert f"(recipe {expected})" in shown
    assert f"recipe {expected} is there" in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_output_in_any_encoding_takes_any_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "studies").mkdir()
    table = 'name = "x"\npurpose = "é 猫 \\u001b[31m"\n'
    (tmp_path / "studies" / os.fsdecode(b"b\xe9b\xe9.toml")).write_text(table, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "catdog_search", "studies"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "LANG": "C"}
        | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert rb"b\xe9b\xe9" in done.stdout
    done.stdout.decode(encoding)


def test_usage_error_is_printed_without_what_a_terminal_acts_on() -> None:
    done = CliRunner().invoke(cli.main, ["data", "\x1b[31mred"])
    assert done.exit_code == 2
    assert r"\x1b[31mred" in done.output
    assert "\x1b" not in done.output


def test_every_line_goes_through_the_funnel() -> None:
    """A `click.echo` elsewhere would print what `say` takes out."""
    folder = Path(cli.__file__).parent
    found = [path.name for path in folder.glob("*.py") if "click.echo(" in path.read_text()]
    assert found == ["common.py"]


@pytest.mark.parametrize("name", ["", "n" * 251])
def test_recipe_needs_a_name_that_a_run_can_have(name: str) -> None:
    table: dict[str, Any] = {**TABLE, "recipes": {name: TABLE["recipes"]["plain"]}}
    with pytest.raises(StudyFileError, match="its name must have 1 to 250 characters"):
        studies.parse(table, "t.toml")
