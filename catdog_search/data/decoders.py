"""Files read, hashed and decoded concurrently, in processes where there are enough of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import PurePosixPath
from queue import SimpleQueue

import numpy as np

from catdog_search.children import trusted_path
from catdog_search.data.budget import Budget, Reserve, unlimited
from catdog_search.data.decode import Decoded, UndecodableError, examine
from catdog_search.data.files import MAX_FILE_BYTES, READ_ERRORS, FileTooLargeError
from catdog_search.data.own import is_own_picture
from catdog_search.data.phash import SIDE, fine_hashes, perceptual_hashes
from catdog_search.data.signatures import HEAD, why_no_photo
from catdog_search.data.sources import Source
from catdog_search.errors import DataError, causes
from catdog_search.machine import cores
from catdog_search.text import printable

# Starting a process takes about as long as it needs for this many small photos.
_PER_PROCESS = 500
# The writer of what they decode can't keep up with more.
_MOST_PROCESSES = 16
# Files examined and handed over together: enough to make the round trip cheap, in bounded memory.
_CHUNK_PHOTOS = 32
_CHUNK_BYTES = 4_000_000

_NO_GREY = np.empty((0, SIDE, SIDE), np.uint8)

# Not `multiprocessing`'s own start, which would also import the caller's main module: there, a
# script that loads a dataset outside `if __name__ == "__main__"` would wait for its own lock.
_CHILD = (
    "import sys; sys.path[:] = {path!r}; "
    "from catdog_search.data.decoders import serve; serve({descriptor})"
)


@dataclass(frozen=True)
class Found:
    """What examining one file gave.

    Attributes:
        key: Its path in the source.
        sha256: Hex digest of its bytes; empty where it can't be read.
        phash: Perceptual hash, see `perceptual_hashes`.
        fine: A finer one, see `fine_hashes`.
        flags: See `Decoded`.
        pixels: uint8 RGB, image_size x image_size x 3 bytes; None where it is left out, or known.
        reason: Why it is left out; empty where it isn't.
        passing: Whether the reason is temporary, so that the file may be readable another time.
    """

    key: str
    sha256: str
    phash: str = ""
    flags: tuple[str, ...] = ()
    pixels: bytes | None = None
    reason: str = ""
    passing: bool = False
    fine: str = ""


def content_key(sha256: str, key: str) -> str:
    """Names what a file decodes to, by its content and its suffix, which may be wrong."""
    return sha256 + PurePosixPath(key).suffix.lower()


@dataclass(frozen=True)
class Task:
    """What is to be examined, and how.

    Attributes:
        source: Source of the files.
        image_size: Side of the pixels.
        known: Keys, as `content_key` makes them, of files that are not to be decoded.
        budget: Memory that all workers share; None for no limit.
    """

    source: Source
    image_size: int
    known: frozenset[str]
    budget: Budget | None = None

    def examine(self, keys: Sequence[str]) -> list[Found]:
        """Examine some files, one after another."""
        seen = [self._seen(key) for key in keys]
        decoded = [what for what in seen if isinstance(what, tuple)]
        grey = np.stack([d.grey for _, d in decoded]) if decoded else _NO_GREY
        hashed = zip(perceptual_hashes(grey), fine_hashes(grey), strict=True)
        return [
            what if isinstance(what, Found) else _found(key, *what, *next(hashed))
            for key, what in zip(keys, seen, strict=True)
        ]

    def _seen(self, key: str) -> Found | tuple[str, Decoded]:
        """The sha256 and what decoding gave; the final result where it isn't decoded."""
        with contextlib.ExitStack() as held:
            try:
                reserve = held.enter_context(self._room_for(key))
                content = self.source.read(key)
            except FileTooLargeError as error:
                return Found(key, "", reason=f"too large: {error}")
            except (*READ_ERRORS, MemoryError) as error:
                return Found(key, "", reason=_why_unread(error), passing=True)
            sha256 = hashlib.sha256(content).hexdigest()
            if content_key(sha256, key) in self.known:
                return Found(key, sha256)
            return self._decoded(key, sha256, content, reserve)

    def _decoded(
        self, key: str, sha256: str, content: bytes, reserve: Reserve
    ) -> Found | tuple[str, Decoded]:
        if is_own_picture(content[:HEAD]):
            return Found(key, sha256, reason="not a photo: drawn by catdog-search")
        try:
            return sha256, examine(content, key, self.image_size, reserve)
        except UndecodableError as error:
            reason = why_no_photo(content[:HEAD]) or str(error)
            return Found(key, sha256, reason=reason, passing=_is_from_outside(error))
        except MemoryError as error:
            return Found(key, sha256, reason=_why_unread(error), passing=True)

    def _room_for(self, key: str) -> AbstractContextManager[Reserve]:
        size = self.source.size(key)
        if size > MAX_FILE_BYTES:  # before waiting for room
            raise FileTooLargeError(size)
        return self.budget.for_file(size) if self.budget else nullcontext(unlimited)


def _found(key: str, sha256: str, decoded: Decoded, phash: str, fine: str) -> Found:
    return Found(key, sha256, phash, decoded.flags, decoded.pixels.tobytes(), fine=fine)


def _why_unread(error: Exception) -> str:
    """An error's text without the source's path, since a source may be known by another path."""
    if isinstance(error, MemoryError):  # our budget's, or the system's
        return f"too little memory: {error}" if str(error) else "unreadable: memory ran out"
    if isinstance(error, OSError) and error.strerror:
        return f"unreadable: {error.strerror}"
    return printable(f"unreadable: {type(error).__name__}: {error}")


def _is_from_outside(error: UndecodableError) -> bool:
    """Whether the bytes are not to blame: memory ran out, or the system refused something."""
    return any(
        isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        for cause in causes(error)
    )


_Examine = Callable[[Sequence[str]], list[Found]]


def examine_all(task: Task) -> Generator[Found, None, None]:
    """Examine all files of a task's source, in key order; close it unless it is exhausted.

    Raises:
        DataError: A process died, for instance killed by the kernel when memory ran out.
    """
    keys = list(task.source.labels)
    n_cores = cores.count()
    processes = min(n_cores, (len(keys) - len(task.known)) // _PER_PROCESS, _MOST_PROCESSES)
    workers = processes if processes > 1 else n_cores
    with contextlib.ExitStack() as stack:
        task = replace(task, budget=stack.enter_context(Budget.of_free_memory(workers)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        ask: _Examine = task.examine
        if processes > 1:
            # Entered last, so killed before the threads that wait for them are joined.
            ask = _shared([stack.enter_context(_Process(task)) for _ in range(processes)])
        yield from _in_order(pool, ask, _chunks(keys, task.image_size, workers), 2 * workers)


def _chunks(keys: Sequence[str], image_size: int, workers: int) -> Iterator[Sequence[str]]:
    fair = len(keys) // (4 * workers)  # so that a few huge photos keep every worker busy too
    size = max(min(_CHUNK_PHOTOS, _CHUNK_BYTES // (3 * image_size**2), fair), 1)
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _in_order(
    pool: ThreadPoolExecutor,
    ask: _Examine,
    chunks: Iterator[Sequence[str]],
    ahead: int,
) -> Iterator[Found]:
    """What `ask` returns for all chunks, asking for at most `ahead` of them in advance."""
    waiting: deque[Future[list[Found]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(ask, chunk))
        if len(waiting) > ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _shared(processes: Sequence[_Process]) -> _Examine:
    """Have an idle process examine some files; for as many threads as there are processes."""
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def examine_by_an_idle_one(keys: Sequence[str]) -> list[Found]:
        process = idle.get()
        try:
            return process.examine(keys)
        finally:
            idle.put(process)

    return examine_by_an_idle_one


class _Process:
    """A process that examines what it is asked to; it ends with its context or this process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._is_told = False
        self._connection, theirs = Pipe()
        shared = task.budget.descriptors if task.budget else ()
        with theirs:  # so that the connection ends when the process dies
            code = _CHILD.format(path=trusted_path(), descriptor=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *shared],
                process_group=0,  # Ctrl-C is for the parent
            )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it holds nothing worth saving
        self._process.wait()

    def examine(self, keys: Sequence[str]) -> list[Found]:
        """Examine some files.

        Raises:
            DataError: It is dead.
        """
        try:
            if not self._is_told:
                self._connection.send(self._task)
                self._is_told = True
            self._connection.send(keys)
            found: list[Found] = self._connection.recv()
        except (EOFError, ConnectionError):
            raise DataError(f"{self._task.source.location}: {self._death()}") from None
        return found

    def _death(self) -> str:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return f"a process that decodes photos {how}{memory}; start again"


def serve(descriptor: int) -> None:
    """A process's whole life: receive the task, then keys to examine, until the parent is gone.

    Args:
        descriptor: File descriptor of the connection to the parent.
    """
    connection = Connection(descriptor)
    try:
        task: Task = connection.recv()
    except EOFError:
        return
    except OSError as error:  # the source is gone
        sys.exit(f"{type(error).__name__}: {error}")
    asked: SimpleQueue[Sequence[str]] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, asked), daemon=True).start()
    while True:
        found = task.examine(asked.get())
        with contextlib.suppress(ConnectionError):  # _listen notices it too
            connection.send(found)


def _listen(connection: Connection, asked: SimpleQueue[Sequence[str]]) -> None:
    """In a thread, to notice that the parent is gone even in the middle of a photo."""
    try:
        while True:
            asked.put(connection.recv())
    except (EOFError, ConnectionError):
        os._exit(1)
