"""Say what the pages for people claim and the project doesn't hold; `make docs-check` runs it.

Looked at are links and anchors, targets of make, commands and options of the command line, files
and modules of the repository, and whether docs/cli.md is as the commands have it. Each finding is
one line: page, line, what it says, why that is wrong.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path

import click
from cli_reference import PAGE, PROGRAM, commands, reference
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "catdog_search"
# Folders that a clone has; what a program writes, such as mlruns/, isn't looked for.
FOLDERS = ("catdog_search", "tests", "docs", "studies", "benchmarks", ".ci")
SUFFIXES = ("py", "md", "toml", "yaml")
# What stands between two commands of a line.
ENDS = ("&&", "||", "|", ";")
# They read like modules of ours: files of the kernel's control groups.
NOT_OURS = ("memory.events", "memory.oom_control")


@dataclass(frozen=True)
class Said:
    """A piece of a page: the target of a link, or code.

    Attributes:
        page: File it stands in.
        line: Counted from 1; of a paragraph its first one.
        kind: link, code (a whole span in backticks) or shell (one line of a block).
        text: What it says.
    """

    page: Path
    line: int
    kind: str
    text: str


def pages() -> list[Path]:
    """What people read and nobody generates from history."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def problems(page: Path) -> Iterator[str]:
    """One line for each claim of a page that doesn't hold."""
    for said in pieces(page):
        for check in CHECKS[said.kind]:
            for why in check(said):
                where = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
                yield f"{where}:{said.line}: {said.text}: {why}"


def pieces(page: Path) -> Iterator[Said]:
    """Links and code of a page, in order."""
    for token in _parsed(page):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence" and token.info in ("", "sh"):
            for i, text in enumerate(token.content.splitlines(), line + 1):
                yield Said(page, i, "shell", text)
        for child in token.children or []:
            if child.type == "code_inline":
                yield Said(page, line, "code", child.content)
            if child.type in ("link_open", "image"):
                target = child.attrs["href" if child.type == "link_open" else "src"]
                yield Said(page, line, "link", str(target))


@cache
def _parsed(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def dead_link(said: Said) -> Iterator[str]:
    """A file or an anchor that isn't there; addresses of the web are not asked."""
    if re.match(r"[a-z]+:", said.text):
        return
    path, _, anchor = said.text.partition("#")
    target = said.page.parent / path if path else said.page
    if not target.exists():
        yield "there is no such file"
    elif anchor and anchor not in anchors(target):
        yield "there is no such heading"


@cache
def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    tokens = _parsed(page)
    names: list[str] = []
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or [])
            names.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return {
        name + (f"-{times}" if times else "")
        for i, name in enumerate(names)
        for times in [names[:i].count(name)]
    }


def unknown_target(said: Said) -> Iterator[str]:
    """A target that the Makefile lacks."""
    for words in _calls(said.text, "make"):
        for word in words:
            if re.fullmatch(r"[a-z][a-z-]*", word) and word not in _targets():
                yield f"the Makefile has no target {word}"


@cache
def _targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))


def unknown_command(said: Said) -> Iterator[str]:
    """A command or an option that the command line lacks."""
    for words in _calls(said.text, PROGRAM):
        # Alone, or with an option only, it is the program itself.
        if not words or words[0].startswith("-"):
            continue
        named = {tuple(name.split()[1:]): command for name, command in commands().items()}
        of = [one for name, one in named.items() if tuple(words[: len(name)]) == name]
        if not of and not any(name[: len(words)] == tuple(words) for name in named):
            yield "there is no such command"
        for word in words if of else []:
            if word.startswith("--"):
                yield from _unknown(word, _options(*of))


def unknown_option(said: Said) -> Iterator[str]:
    """An option named by itself that neither a command nor a benchmark has."""
    if said.text.startswith("--"):
        yield from _unknown(said.text.split()[0], _options(*commands().values()) | _measuring())


def _unknown(word: str, options: set[str]) -> Iterator[str]:
    for name in re.findall(r"--[a-z][a-z0-9-]*", word):
        if name not in options:
            yield f"there is no option {name}"


def _options(*of: click.Command) -> set[str]:
    own = {name for one in of for p in one.params for name in (*p.opts, *p.secondary_opts)}
    return {"--help", *own}


@cache
def _measuring() -> set[str]:
    """Options of benchmarks."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    return {name for text in texts for name in re.findall(r'"(--[a-z0-9-]+)"', text)}


def _calls(text: str, program: str) -> Iterator[list[str]]:
    """The words after each call of a program, up to what ends a command."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a quotation mark that is an apostrophe
        words = text.split()
    for i, word in enumerate(words):
        leads = not i or words[i - 1] in ENDS or re.match(r"\w+=", words[i - 1])
        if leads and word.rpartition("/")[2] == program:
            yield list(takewhile(lambda each: each not in ENDS, words[i + 1 :]))


def absent_file(said: Said) -> Iterator[str]:
    """A path that reads like one of the repository's and isn't there, or lacks that test."""
    for word in said.text.split() if said.kind == "shell" else [said.text]:
        path, _, test = word.partition("::")
        if not re.fullmatch(r"[\w.*/-]+", path) or re.search(r"[A-Z]{3,}(?!\w*\.md)", path):
            continue  # a placeholder, such as NAME.toml
        found = _below(path) if "/" in path else _named(path)
        if found is None:
            continue
        if not found:
            yield f"there is no {path}"
        elif test and f"def {test.partition('[')[0]}(" not in found[0].read_text(encoding="utf-8"):
            yield f"{path} has no {test}"


def _below(path: str) -> list[Path] | None:
    """What a path means from the repository or the package on; None if it is of neither."""
    top = path.partition("/")[0]
    if top in FOLDERS:
        return list(ROOT.glob(path))
    return list(PACKAGE.glob(path)) if top.strip(".") and (PACKAGE / top).is_dir() else None


def _named(name: str) -> list[Path] | None:
    """The files of this name, wherever in the repository; None if it names no file."""
    if not re.fullmatch(rf"\w[\w.-]*\.({'|'.join(SUFFIXES)})", name):
        return None
    return [*ROOT.glob(name), *(hit for top in FOLDERS for hit in (ROOT / top).rglob(name))]


def absent_module(said: Said) -> Iterator[str]:
    """A dotted name that begins with a module of ours and leads nowhere."""
    name = re.match(r"(?:catdog_search\.)?((?:\w+\.)+\w+)", said.text)
    if not name or name[1].endswith(SUFFIXES) or said.text.startswith(NOT_OURS):
        return
    at = PACKAGE
    for part in name[1].split("."):
        if (at / part).is_dir():
            at /= part
        elif (at / f"{part}.py").exists():
            at /= f"{part}.py"
        else:
            if at != PACKAGE and part not in _defined(at):
                yield f"{at.relative_to(ROOT)} has no {part}"
            return


@cache
def _defined(module: Path) -> set[str]:
    """Names at the top of a module or package, read and not imported."""
    file = module / "__init__.py" if module.is_dir() else module
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {each.id for each in targets if isinstance(each, ast.Name)}
    return names


CHECKS: dict[str, list[Callable[[Said], Iterator[str]]]] = {
    "link": [dead_link],
    "code": [unknown_target, unknown_command, unknown_option, absent_file, absent_module],
    "shell": [unknown_target, unknown_command, absent_file],
}


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = [line for page in pages() for line in problems(page)]
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != reference():
        found.append("docs/cli.md: the commands have changed since; `make docs` writes it anew")
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
