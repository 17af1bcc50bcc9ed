"""Which study in a database is a sweep's, where many people keep theirs there.

Sweeps of one name in two folders are two studies, so a study's name holds an identifier that is made once and kept in
the sweep's folder. A folder that moves takes its study along; one that is made anew has another study.
"""

from __future__ import annotations

import re
import socket
import uuid
from pathlib import Path

from experiments.errors import UserError
from experiments.json_file import write_text
from experiments.store import SweepStore
from experiments.study import Study

_ID = re.compile(r"[0-9a-f]{12}")


def sweep_id(store: SweepStore) -> str:
    """The sweep's identifier, which is made where it has none yet. Call it under the sweep's lock.

    Raises:
        UserError: where its file is damaged.
    """
    if not store.study_id.exists():
        write_text(store.study_id, uuid.uuid4().hex[:12] + "\n")
    found = _id_in(store)
    if found is None:
        raise UserError(
            f"{store.study_id}: damaged; expected 12 hex digits: bring it back, or remove it to have the sweep's study"
            " made anew in the database, from the trial folders"
        )
    return found


def claim(study: Study, store: SweepStore) -> None:
    """Says in the study which folder it is of, and refuses a copy of that folder: both would write one study.

    Raises:
        UserError: where the folder that the study is of is still there.
    """
    folder = store.folder.resolve()
    host, _, path = study.folder().partition(":")
    other = SweepStore(Path(path))
    if path and path != str(folder) and _id_in(other) == _id_in(store) and not other.folder.samefile(folder):
        raise UserError(
            f"{folder}: is a copy of {path}, which has the study of both; remove {store.study_id} to have a study of"
            " its own made for the copy, from the trial folders"
        )
    here = f"{socket.gethostname()}:{folder}"
    if f"{host}:{path}" != here:
        study.sign(here)


def _id_in(store: SweepStore) -> str | None:
    """None where there is none that can be read."""
    try:
        text = store.study_id.read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if _ID.fullmatch(text) else None
