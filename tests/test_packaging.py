"""What is shipped: a wheel with the studies, no URLs in the constraints, a README that holds."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from lowest import lowest

from catdog_search import __version__, cli
from catdog_search.machine.backends import versions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*command, "--directory", str(out)], cwd=ROOT, check=True)
    return next(out.glob("*.tar.gz"))


def test_wheel_carries_the_shipped_studies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = {n for n in file.namelist() if n.endswith(".toml")}
    studies = (ROOT / "studies").glob("*.toml")
    assert packed == {f"catdog_search/shipped_studies/{path.name}" for path in studies}


def test_wheel_finds_its_studies_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = (
        "from catdog_search.study import studies; "
        "print(studies.load('quick').name, studies.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    name, file_ = done.stdout.split()
    assert name == "quick"
    assert file_.startswith(str(tmp_path / "site"))


def test_wheel_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        assert "catdog_search/py.typed" in file.namelist()


@pytest.mark.parametrize("name", ["index.html", "page.css", "page.js"])
def test_wheel_carries_the_page(wheel: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as file:
        assert f"catdog_search/service/page/{name}" in file.namelist()


@pytest.mark.parametrize(
    "name",
    ["catdog_search/py.typed", "studies/quick.toml", "tests/test_packaging.py", "CHANGELOG.md"],
)
def test_sdist_carries_what_a_build_and_its_tests_need(sdist: Path, name: str) -> None:
    with tarfile.open(sdist) as file:
        assert f"{sdist.name.removesuffix('.tar.gz')}/{name}" in file.getnames()


def test_core_needs_no_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = " ".join(project["dependencies"])
    assert not re.search(r"tensorflow|jax|torch", core)
    assert {"tf", "gpu", "jax", "torch", "dev"} <= set(project["optional-dependencies"])


def test_constraints_are_exact_and_without_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [
        line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+-]+", line)
    ] == []


def test_changelog_knows_the_version_or_what_comes() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__}" in changelog or "## Unreleased" in changelog


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


@pytest.mark.parametrize(("name", "command"), list(leaves(cli.main)))
def test_readme_names_every_command_and_its_reference_every_option(
    name: str, command: click.Command
) -> None:
    assert f"catdog-search {name}" in README
    assert "docs/cli.md" in README
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"## catdog-search {name}\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert f"`{option}" in section, f"{name} {option}"


def test_readme_names_every_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*##", makefile, flags=re.MULTILINE)
    assert {"run", "test", "promote", "ui", "help", "clean"} <= set(targets)
    assert [t for t in targets if f"make {t}" not in README] == []


def test_make_clean_never_touches_state() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "clean"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    removed = [line for line in done.stdout.splitlines() if "rm -rf" in line]
    assert removed
    assert not any(
        "rm -rf mlruns" in line or " mlruns" in line.split("find")[0] for line in removed
    )


def test_lowest_versions_are_the_lower_bounds() -> None:
    core = ["click>=8.2", "mlflow>=3.17,<4", "tensorflow[and-cuda]>=2.21"]
    assert list(lowest(core)) == ["click==8.2", "mlflow==3.17", "tensorflow==2.21"]


@pytest.mark.parametrize("requirement", ["click", "click<9", "click==8.2"])
def test_requirement_without_a_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match=f"'{requirement}' has no lower bound"):
        list(lowest([requirement]))


def test_repository_holds_no_large_file() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert [str(path) for path in paths if path.is_file() and path.stat().st_size > 10**6] == []


def test_runs_from_a_folder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "catdog-search":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions("tensorflow")
    assert found["catdog-search"] == __version__
    assert found["keras"] == known("keras")
