"""Fills a `ProposalCache` with several processes. Torch-free; OpenCV is imported in the processes alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.parent_death import die_with_parent
from wsol.seeding import generator


@dataclass(frozen=True)
class FillReport:
    """What `fill` did: images whose proposals it computed, and images whose proposals were there already."""

    computed: int
    found: int


def fill(
    cache: ProposalCache,
    records: Sequence[ImageRecord],
    *,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> FillReport:
    """Computes what is missing in the cache, so that `cache.get` finds every image of `records`.

    Another process may fill the same directory meanwhile; what it stores is not computed again. The processes are
    fresh ones (spawn): a script that calls this needs the usual `if __name__ == "__main__":`. They end with this
    call whatever happens, an interrupt included, and on their own when this process is killed. None is started when
    nothing is missing.

    Args:
        cache: to fill.
        records: in any order; repeats do no harm.
        workers: processes, >= 0. 0 computes in this process.
        on_progress: called with (images done, images in all), in this process, after each image.

    Raises:
        DataError: for the first image that failed, naming its file; also when a process dies on it.
        OSError: when the cache directory cannot be written.
        ValueError: if `workers` is negative.
    """
    if workers < 0:
        raise ValueError(f"got workers={workers}; expected 0 or more")
    found = 0
    missing = []
    for record in records:
        if cache.holds(record):
            found += 1
            _report(on_progress, found, len(records))
        else:
            missing.append(record)
    computed = 0
    with closing(_compute(cache, _shuffled(missing), workers)) as outcomes:
        for done, outcome in enumerate(outcomes, start=found + 1):
            computed += outcome
            _report(on_progress, done, len(records))
    return FillReport(computed=computed, found=len(records) - computed)


def _report(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)


def _shuffled(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Each process goes its own way, so that two that fill one directory share the work. The result is the same."""
    return [records[index] for index in generator(os.getpid(), "fill order").permutation(len(records))]


def _compute(cache: ProposalCache, missing: Sequence[ImageRecord], workers: int) -> Generator[bool]:
    """For each image, in the order of completion, whether it was computed here."""
    if workers == 0 or not missing:
        yield from (_ensure(cache, record) for record in missing)
        return
    with _worker_processes(cache, min(workers, len(missing))) as processes:
        yield from _distribute(processes, iter(missing))


def _ensure(cache: ProposalCache, record: ImageRecord) -> bool:
    """Whether the image had to be computed. Looks again, as another process may have been here since."""
    if cache.holds(record):
        return False
    cache.get(record)
    return True


@contextmanager
def _worker_processes(cache: ProposalCache, count: int) -> Iterator[dict[Connection, SpawnProcess]]:
    """Processes that wait for records, each at the other end of its connection. Killed at the end.

    Killing loses nothing: a file in the cache is whole or not there. (A pool of the standard library either hangs
    when a process dies, or leaves its processes behind when this one is killed.)
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, SpawnProcess] = {}
    try:
        with _no_interrupts():  # also inherited by the processes: Ctrl-C is for this one to handle
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, cache), name="proposals", daemon=True)
                process.start()
                theirs.close()  # so that we read an end of file when the process dies
                processes[ours] = process
        yield processes
    finally:
        for connection, process in processes.items():
            process.kill()
            process.join()
            process.close()
            connection.close()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Holds SIGINT back until the end of the block, where the platform can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _distribute(processes: dict[Connection, SpawnProcess], records: Iterator[ImageRecord]) -> Iterator[bool]:
    busy: dict[Connection, ImageRecord] = {}
    idle: Iterable[Connection] = list(processes)
    while True:
        for connection, record in zip(idle, records, strict=False):  # in this order no record is taken and lost
            busy[connection] = record
            _send(connection, record)
        if not busy:
            return
        idle = cast(list[Connection], wait(list(busy)))
        for connection in idle:
            record = busy.pop(connection)
            yield _receive(connection, processes[connection], record)


def _send(connection: Connection, record: ImageRecord) -> None:
    try:
        connection.send(record)
    except BrokenPipeError:
        return  # it died: the end of file that we read next says of what


def _receive(connection: Connection, process: SpawnProcess, record: ImageRecord) -> bool:
    try:
        outcome = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise DataError(
            f"got exit status {process.exitcode} from the process that computed the proposals of {record.path}"
            " (-9: killed, often for lack of memory); expected boxes: a smaller proposals.resize_px may help"
        ) from error
    if isinstance(outcome, Exception):
        raise outcome
    return bool(outcome)


def _serve(connection: Connection, cache: ProposalCache) -> None:
    """A process's main function: computes what it is sent, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()  # also in the midst of an image, which can take long
    while True:
        try:
            record = connection.recv()
        except EOFError:
            return
        try:
            outcome: bool | Exception = _ensure(cache, record)
        except (DataError, OSError) as error:
            outcome = error
        except Exception as error:  # whatever it was, the caller needs the image's name and where it happened
            got = f"got {type(error).__name__} ({error}) from the proposals of {record.path}"
            outcome = DataError(f"{got}; expected boxes")
            outcome.add_note("".join(traceback.format_exception(error)))
        try:
            connection.send(outcome)
        except BrokenPipeError:  # nobody waits for it any more
            return
