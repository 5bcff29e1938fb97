"""Photos decoded in processes: the same as in threads, bounded by whoever started them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from catdog_search.data import cache, decoders, packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.pack import PackWriter, pack_path
from catdog_search.data.sources import FolderSource, Source, SyntheticSource, ZipSource
from catdog_search.data.synthetic import draw
from catdog_search.errors import DataError
from catdog_search.machine import cores

LIMIT = 10**9


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few photos are enough for two processes, whatever the machine."""
    monkeypatch.setattr(decoders, "_PER_PROCESS", 10)
    monkeypatch.setattr(cores, "count", lambda: 2)


@pytest.fixture
def messy(photo_folder: Path) -> Path:
    """Photos, among them some that are flagged, left out, or the same as another."""
    cats = photo_folder / "Cat"
    draw(0, 500).convert("L").save(cats / "grey.jpg")
    draw(0, 501).save(cats / "lying.jpg", "PNG")
    draw(0, 502).resize((700, 500)).save(cats / "large.jpg")
    Image.new("RGB", (60, 60), "grey").save(cats / "flat.png")
    (cats / "empty.jpg").touch()
    (cats / "text.jpg").write_text("no image")
    (cats / "readme.txt").write_text("no image by its name")
    (photo_folder / "Dog" / "again.ppm").write_bytes(next(cats.glob("*.ppm")).read_bytes())
    return photo_folder


def zipped(folder: Path) -> ZipSource:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for photo in sorted(folder.rglob("*.*")):
            file.write(photo, photo.relative_to(folder))
    return ZipSource(path)


def content(loaded: Dataset) -> tuple[str, bytes]:
    return (loaded.folder / "manifest.json").read_text(), loaded.pixels().tobytes()


@pytest.mark.parametrize("kind", ["folder", "zip", "synthetic"])
def test_processes_give_what_threads_give(
    kind: str, messy: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sources: dict[str, Callable[[], Source]] = {
        "folder": lambda: FolderSource(messy),
        "zip": lambda: zipped(messy),
        "synthetic": lambda: SyntheticSource(100),
    }
    source = sources[kind]()
    threads = content(packing.load(source, 24, tmp_path / "threads", LIMIT))
    request.getfixturevalue("many")
    processes = content(packing.load(source, 24, tmp_path / "processes", LIMIT))
    assert processes == threads
    assert len(json.loads(threads[0])["left_out"]) == (0 if kind == "synthetic" else 4)


@pytest.mark.usefixtures("many")
def test_processes_examine_every_file_themselves(
    drawn: SyntheticSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "examine", lambda *_: pytest.fail("decoded in the parent"))
    task = decoders.Task(drawn, 8, frozenset())
    assert [found.key for found in decoders.examine_all(task)] == list(drawn.labels)


@pytest.mark.usefixtures("many")
def test_known_pixels_are_taken_over_beside_processes(photo_folder: Path, tmp_path: Path) -> None:
    before = packing.load(FolderSource(photo_folder), 8, tmp_path, LIMIT)
    # What no decoding would give says where the pixels come from.
    with PackWriter(pack_path(before.folder, 8), 8) as out:
        for _ in before.manifest.photos:
            out.write(bytes(8 * 8 * 3))
    more = SyntheticSource(140)
    for key in list(more.labels)[50:70]:
        (photo_folder / "Cat" / f"more-{key}").write_bytes(more.read(key))
    after = packing.load(FolderSource(photo_folder), 8, tmp_path, LIMIT)
    is_new = np.array([photo.key.startswith("Cat/more-") for photo in after.manifest.photos])
    assert is_new.sum() == 20
    assert not after.pixels()[~is_new].any()
    assert after.pixels()[is_new].any(axis=(1, 2, 3)).all()
    was = {photo.sha256: photo.phash for photo in before.manifest.photos}
    assert was.items() <= {photo.sha256: photo.phash for photo in after.manifest.photos}.items()


def decoding() -> list[psutil.Process]:
    """Not the other children that this process may have, which later tests count on."""
    children = psutil.Process().children()
    return [child for child in children if "decoders" in " ".join(child.cmdline())]


@pytest.mark.usefixtures("many")
def test_killed_process_is_one_line_and_leaves_no_pack(tmp_path: Path) -> None:
    def kill(*_: int) -> None:
        for process in decoding():
            process.kill()

    # Enough that some are still to come when the first are reported.
    with pytest.raises(DataError, match=r"^900 drawn pictures: a process .* SIGKILL, as when memo"):
        packing.load(SyntheticSource(900), 8, tmp_path, LIMIT, kill)
    assert [p for p in tmp_path.rglob("*") if p.suffix in (".u8", ".partial", ".json")] == []


@pytest.mark.usefixtures("many")
def test_source_that_is_gone_is_one_line(
    photo_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = zipped(photo_folder)
    Path(source.location).unlink()
    with pytest.raises(DataError, match="a process that decodes photos ended with 1"):
        list(decoders.examine_all(decoders.Task(source, 8, frozenset())))
    errors = capfd.readouterr().err
    assert "FileNotFoundError: " in errors
    assert "Traceback" not in errors


@pytest.mark.usefixtures("many")
def test_processes_end_with_what_uses_them(drawn: SyntheticSource) -> None:
    task = decoders.Task(drawn, 8, frozenset())
    with contextlib.closing(decoders.examine_all(task)) as examined:
        next(examined)
        processes = decoding()
    assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=10)[1] == []


_PACK = """
import os, signal, sys
from pathlib import Path
from catdog_search.data import packing
from catdog_search.data.sources import SyntheticSource
from catdog_search.machine import cores
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
cores.count = lambda: 2
say = lambda done, total: print(done, flush=True)
packing.load(SyntheticSource(4000), 8, Path(sys.argv[1]), 10**9, say)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_asks(by: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PACK, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as packing:
        assert packing.stdout is not None
        assert packing.stderr is not None
        assert packing.stdout.readline() == "256\n"
        processes = psutil.Process(packing.pid).children()
        os.killpg(packing.pid, by)
        errors = packing.stderr.read()
    assert len(processes) == 2
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    # Nobody but the one that was interrupted has anything to say.
    assert errors.count("Traceback") == (1 if by == signal.SIGINT else 0)
    assert [p for p in tmp_path.rglob("*") if p.suffix in (".u8", ".json")] == []


def test_script_without_a_main_guard_can_load(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_PACK.replace("SyntheticSource(4000)", "SyntheticSource(1000)"))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(decoders.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["256", "512", "768", "1000"]
    assert done.stderr == ""
    assert len(cache.entries(tmp_path)) == 1


def test_process_imports_little(in_fresh_python: Callable[[str], str]) -> None:
    heavy = ("scipy", "pydantic", "keras", "optuna", "mlflow", "click", "rich", "matplotlib")
    code = (
        f"import sys, catdog_search.data.decoders; print([m for m in {heavy} if m in sys.modules])"
    )
    assert in_fresh_python(code) == "[]"


@pytest.mark.parametrize(
    ("n", "image_size", "expected"), [(20_000, 64, 32), (20_000, 1024, 1), (100, 64, 12), (3, 8, 1)]
)
def test_chunks_are_bounded_and_shared_out(n: int, image_size: int, expected: int) -> None:
    chunks = list(decoders._chunks([str(i) for i in range(n)], image_size, 2))
    assert {len(chunk) for chunk in chunks[:-1]} == {expected}
    assert sum(map(len, chunks)) == n
