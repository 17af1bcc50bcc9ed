"""Whether a node of a Ray cluster can run a sweep's trials: the same folder, the same source, the same packages."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from experiments.code_version import REPOSITORY, CodeVersion, differences, present_version
from wsol.cache_dir import cache_dir

_SEEN_WITHIN_S = 5.0
"""A network file system shows a new file on other machines by then."""
_SHOWN = 4


@dataclass(frozen=True)
class Terms:
    """What a sweep needs to be the same on every node.

    Attributes:
        folder: where results go, absolute.
        token: the content of a file in there, which no other file has.
        working_directory: of the runner, from which relative paths of the spec start.
        repository: the source that the runner runs.
        version: of the source and the packages.
        cache: of generated data and proposals.
        lease_s: an attempt may go on for so long after the last answer from the runner, see `ray_host`.
    """

    folder: Path
    token: str
    working_directory: Path
    repository: Path
    version: CodeVersion
    cache: Path
    lease_s: float

    @property
    def shown_file(self) -> Path:
        """Written by the runner, read on every node."""
        return self.folder / f".shared-{self.token}"

    def answer_file(self, node: str) -> Path:
        """Written on a node, read by the runner."""
        return self.folder / f".shared-{self.token}-{node}"


def show_terms(folder: Path, *, lease_s: float) -> Terms:
    """Those of this process, for a sweep's folder. The file that nodes have to see is there until `clear_terms`."""
    terms = Terms(
        folder=folder.absolute(),
        token=secrets.token_hex(8),
        working_directory=Path.cwd(),
        repository=REPOSITORY,
        version=present_version([]),
        cache=cache_dir().absolute(),
        lease_s=lease_s,
    )
    terms.folder.mkdir(parents=True, exist_ok=True)
    clear_terms(terms)  # of a runner that was killed; only one runs at a time
    terms.shown_file.write_text(terms.token)
    return terms


def clear_terms(terms: Terms) -> None:
    """Removes the files by which nodes are checked."""
    for file in terms.folder.glob(".shared-*"):
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class NodeReport:
    """What a node found.

    Attributes:
        host: its name.
        fault: what it could not do, in words; empty: nothing.
        version: of what would compute results there.
    """

    host: str
    fault: str
    version: CodeVersion


def look_at_node(terms: Terms, node: str) -> NodeReport:
    """Runs on the node that is looked at.

    Args:
        node: its id.
    """
    return NodeReport(
        host=socket.gethostname(), fault=_fault(terms, node) or _wrong_source(terms), version=present_version([])
    )


def _fault(terms: Terms, node: str) -> str:
    if not terms.working_directory.is_dir():
        return (
            f"there is no folder {terms.working_directory}, where the command was started; expected the same paths on"
            " every node"
        )
    try:
        seen = _read_soon(terms.shown_file)
        terms.answer_file(node).write_text(terms.token)
    except OSError as error:
        return f"{_not_shared(terms)} ({error.strerror} for {error.filename})"
    return "" if seen == terms.token else _not_shared(terms)


def _wrong_source(terms: Terms) -> str:
    if terms.repository == REPOSITORY:
        return ""
    return f"it imports the source in {REPOSITORY}; expected that in {terms.repository}: the same paths on every node"


def _not_shared(terms: Terms) -> str:
    return (
        f"{terms.folder} there is not the folder that the runner writes; expected a file system that all nodes share:"
        " give one by --results"
    )


def _read_soon(file: Path) -> str:
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while True:
        try:
            return file.read_text()
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise
            os.stat(file.parent)  # makes a network file system look again
            time.sleep(0.2)


def objection(terms: Terms, report: NodeReport, *, node: str) -> str:
    """Why a node cannot be used, from its report and what it left in the folder; empty where it can.

    Args:
        node: its id.
    """
    if report.fault:
        return report.fault
    try:
        answer = _read_soon(terms.answer_file(node))
    except OSError:
        answer = ""
    if answer != terms.token:
        return _not_shared(terms)
    if changes := differences(terms.version, report.version):
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        return (
            f"it would train with something else than the runner (runner -> node: {', '.join(changes[:_SHOWN])}{more});"
            " expected the same checkout and packages on every node; after a change there, start its Ray again"
        )
    return ""
