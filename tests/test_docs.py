"""What the pages for people claim: it holds, and a page that claims something else is found out."""

from __future__ import annotations

import re
from pathlib import Path

import check_docs
import cli_reference
import pytest


@pytest.mark.parametrize("page", check_docs.pages(), ids=lambda page: page.name)
def test_page_claims_nothing_that_does_not_hold(page: Path) -> None:
    assert list(check_docs.problems(page)) == []


def test_cli_page_is_as_the_commands_have_it() -> None:
    written = cli_reference.PAGE.read_text(encoding="utf-8")
    assert written == cli_reference.reference(), "`make docs` writes it anew"


@pytest.mark.parametrize("columns", ["40", "400"])
def test_cli_page_does_not_depend_on_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cli_reference.reference()
    monkeypatch.setenv("COLUMNS", columns)
    assert cli_reference.reference() == before


@pytest.mark.parametrize(("name", "command"), list(cli_reference.commands().items()))
def test_cli_page_has_every_command_with_its_options(name: str, command: object) -> None:
    section = cli_reference.reference().split(f"\n## {name}\n")[1].split("\n## ")[0]
    for parameter in command.params:  # type: ignore[attr-defined]
        assert all(option in section for option in parameter.opts if option.startswith("--"))


HOLDS = [
    "[a page](../docs/architecture.md), [its part](../docs/architecture.md#seams), [here](#top)",
    "`make test`, `make STUDY=quick run`, `VENV=x make test`",
    "`catdog-search run --study NAME --no-keep-splits`, `catdog-search`, `catdog-search data`",
    "`--sha256 HEX`, `--network residual` of a benchmark",
    "`evaluation/floor.py`, `clock.py`, `./mlruns`, `/tmp/x`, `CHANGELOG.md`, `tests/test_NAME.py`",
    "`tests/test_docs.py`, `constraints.txt`, `benchmarks/results/*.json`, `studies/NAME.toml`",
    "`training.loop.train(params)`, `catdog_search.errors.CatdogError`, `cli.main`, `numpy.array`",
    "`memory.events`, of the kernel; `mlruns/mlflow.db`, of the state",
    "```sh\nmake test  # as make nothing does\npytest tests/test_docs.py\n```",
    "```python\nmake nothing\n```",
]


@pytest.mark.parametrize("text", HOLDS)
def test_check_passes_over_what_holds(text: str, tmp_path: Path) -> None:
    assert said_of(f"# Top\n\n{text}\n", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a page](nowhere.md)", "no such file"),
        ("![a picture](nowhere.png)", "no such file"),
        ("[a part](#nowhere)", "no such heading"),
        ("[another page's](../docs/architecture.md#nowhere)", "no such heading"),
        ("`make nothing`", "the Makefile has no target nothing"),
        ("```sh\nSTUDY=quick make nothing\n```", "the Makefile has no target nothing"),
        ("`catdog-search nothing`", "no such command"),
        ("`catdog-search data nothing`", "no such command"),
        ("`catdog-search run --nothing`", "no option --nothing"),
        ("`catdog-search studies --trials 3`", "no option --trials"),
        ("```sh\ncd x && .venv/bin/catdog-search nothing | head\n```", "no such command"),
        ("`--nothing`", "no option --nothing"),
        ("| a |\n|---|\n| `--nothing A\\|B` |", "no option --nothing"),
        ("`tests/nothing.py`", "there is no tests/nothing.py"),
        ("`search/nothing.py`", "there is no search/nothing.py"),
        ("`nothing.toml`", "there is no nothing.toml"),
        ("`catdog_search/nothing/`", "there is no catdog_search/nothing/"),
        ("```sh\npytest tests/test_docs.py::test_nothing\n```", "has no test_nothing"),
        ("`training.nothing`", "catdog_search/training has no nothing"),
        ("`training.loop.nothing()`", "catdog_search/training/loop.py has no nothing"),
    ],
)
def test_check_finds_what_does_not_hold(text: str, why: str, tmp_path: Path) -> None:
    (found,) = said_of(f"# Top\n\n{text}\n", tmp_path)
    assert re.match(r"page.md:[345]: ", found)
    assert why in found


def test_check_fails_where_the_cli_page_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_docs, "PAGE", tmp_path / "cli.md")
    assert check_docs.main() == 1
    assert "`make docs` writes it anew" in capsys.readouterr().out


def test_anchors_of_headings_that_are_alike_are_counted(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c-d\n\n## Same\n\n## Same\n", encoding="utf-8")
    assert check_docs.anchors(page) == {"a-b-c-d", "same", "same-1"}


def said_of(text: str, folder: Path) -> list[str]:
    """What the check says of a page with this text, which lies beside docs/."""
    (folder / "docs").symlink_to(check_docs.ROOT / "docs")
    pages = folder / "pages"
    pages.mkdir()
    (pages / "page.md").write_text(text, encoding="utf-8")
    found = check_docs.problems(pages / "page.md")
    return [line.removeprefix(f"{pages}/") for line in found]
