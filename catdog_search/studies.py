"""Find, read and check study files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catdog_search import config as cfg
from catdog_search.config import StudyConfig
from catdog_search.errors import StudyFileError
from catdog_search.space import Knob, Params, Space, did_you_mean, parse_space

PACKAGE = Path(__file__).resolve().parent


def folders() -> list[Path]:
    """Where studies are looked for: ./studies first, then those that came with the package."""
    shipped = [PACKAGE / "shipped_studies", PACKAGE.parent / "studies"]
    return [p for p in (Path("studies"), *shipped) if p.is_dir()]


def available() -> dict[str, Path]:
    """All study files by name; a nearer one hides a farther one of the same name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find(name_or_file: str) -> Path:
    """The path of a study, by its name or as a path to a .toml file.

    Raises:
        StudyFileError: There is none.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise StudyFileError(f"{path}: no such study file")
    found = available()
    if name_or_file not in found:
        raise StudyFileError(
            f"no study named {name_or_file!r}; {did_you_mean(name_or_file, found)}"
        )
    return found[name_or_file]


def load(name_or_file: str) -> StudyConfig:
    """Read and check a study, without loading anything heavy.

    Raises:
        StudyFileError: Where and what is wrong, and what is allowed.
    """
    path = find(name_or_file)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: is not TOML: {error}") from None
    except OSError as error:
        raise StudyFileError(f"{path}: can't be read: {error.strerror}") from None
    return parse(table, str(path))


def parse(table: Mapping[str, Any], file: str) -> StudyConfig:
    """Check the content of a study file; `file` is named in messages."""
    family = table.get("family", "cnn")
    if family not in cfg.FAMILIES:
        raise StudyFileError(
            f"{file} family: {family!r}; {did_you_mean(str(family), cfg.FAMILIES)}"
        )
    knobs = cfg.knobs(family)
    space = parse_space(_subtable(table, "space", file), knobs, f"{file} [space]")
    if not space.dimensions:
        raise StudyFileError(f"{file} [space]: is missing or empty; there is nothing to search")
    recipes = _parse_recipes(_subtable(table, "recipes", file), space, knobs, file)
    config = cfg.check_study({**table, "space": space, "recipes": recipes}, file)
    _check_blocks(config, file)
    return config


def _subtable(table: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise StudyFileError(f"{file} {key}: {value!r} is not a table; write [{key}]")
    return value


def _parse_recipes(
    table: Mapping[str, Any], space: Space, knobs: Mapping[str, Knob], file: str
) -> dict[str, Params]:
    recipes: dict[str, Params] = {}
    for name, params in table.items():
        where = f"{file} [recipes.{name}]"
        if not isinstance(params, dict):
            raise StudyFileError(f"{where}: {params!r} is not a table of params")
        # TOML tells 0 from 0.0; a rate of 0 is meant as the number.
        whole = [
            k
            for k, v in params.items()
            if type(v) is int and k in knobs and knobs[k].kind == "float"
        ]
        recipes[name] = {**params, **{k: float(params[k]) for k in whole}}
        if problems := space.problems(recipes[name]):
            raise StudyFileError(f"{where} {problems[0]}")
    return recipes


def _check_blocks(config: StudyConfig, file: str) -> None:
    """Each block halves the side, so the deepest one must still see a pixel."""
    dimension = config.space.dimensions.get("n_blocks")
    default = cfg.FAMILIES[config.family]().n_blocks
    values = dimension.values if dimension else (default,)
    most = max(int(v) for v in values or ())
    if 2**most > config.image_size:
        raise StudyFileError(
            f"{file} [space] n_blocks: {most} blocks need an image_size of at least {2**most}; "
            f"it is {config.image_size}"
        )
