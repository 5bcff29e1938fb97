"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

What the project itself asks for, and the backend, stands at its lower bound; the tools that run
the tests stand where constraints.txt has them. What any of those needs in turn is pip's to choose.
Any Python that runs the project runs this, with nothing installed.

    python tests/lowest.py > lowest.txt
    pip install --constraint lowest.txt '.[tf]' pytest pytest-xdist
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("pytest", "pytest-xdist")


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """Each requirement pinned at its lower bound.

    Raises:
        ValueError: One has no lower bound.
    """
    for text in requirements:
        found = re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", text)
        if not found:
            raise ValueError(f"pyproject.toml: {text!r} has no lower bound, such as >=1.2")
        yield f"{found[1]}=={found[2]}"


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    backend = project["optional-dependencies"]["tf"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tools = [pin for pin in pins if pin.partition("==")[0] in TOOLS]
    print(*lowest(project["dependencies"] + backend), *tools, sep="\n")


if __name__ == "__main__":
    main()
