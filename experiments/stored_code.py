"""What a sweep keeps of the source, the packages and the data that its trials are trained with."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.code_version import REPOSITORY, CodeVersion, Part
from experiments.environment import git
from experiments.errors import UserError
from experiments.json_file import write_json, write_text
from experiments.sealed import opened, sealed
from experiments.store import SweepStore
from wsol.atomic_file import sync_folder


@dataclass(frozen=True)
class StoredCode:
    """The content of a sweep's code.json.

    Attributes:
        source: see `CodeVersion`, as the next three.
        commit: that git had then; empty without git.
        since: UTC, as ISO 8601 text.
        generation: what `ExperimentConfig.code` is in every trial from then on.
    """

    source: str
    files: Mapping[str, str]
    packages: Mapping[str, str]
    data: Mapping[str, Part]
    commit: str
    since: str
    generation: str

    @property
    def version(self) -> CodeVersion:
        """What it is compared by."""
        return CodeVersion(files=self.files, packages=self.packages, data=self.data)


_STORED = TypeAdapter(StoredCode)
_JSON = TypeAdapter(dict[str, Any])


def read_stored_code(store: SweepStore) -> StoredCode | None:
    """What a sweep trains with; None for one that was not begun, or begun before this was stored.

    Raises:
        UserError: where the file is damaged.
    """
    problem = "damaged"
    try:
        values = opened(_JSON.validate_json(store.code.read_bytes()))
        stored = _STORED.validate_python(values) if values is not None else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        stored = None
        problem = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else problem
    if stored is None or not _is_sound(stored):
        raise UserError(
            f"{store.code}: {problem}, so that it cannot be told with which source this sweep trains; expected the file"
            " as it was written: bring it back to go on, or run all trials anew with the present source by --code new"
            " (the old ones stay on disk)"
        )
    return stored


def _is_sound(stored: StoredCode) -> bool:
    return stored.version.source == stored.source and bool(re.fullmatch(r"([0-9a-f]{12})?", stored.generation))


def stored_generation(store: SweepStore) -> str:
    """What `ExperimentConfig.code` is in the trials of a sweep.

    Raises:
        UserError: see `read_stored_code`.
    """
    stored = read_stored_code(store)
    return stored.generation if stored is not None else ""


def store_code(store: SweepStore, version: CodeVersion, *, generation: str, repository: Path = REPOSITORY) -> None:
    """Keeps the present source and says that the sweep trains with it from now on.

    That is said last: a kill in the midst leaves what was said before.

    Raises:
        UserError: where a file is changed at this very time.
    """
    if _not_as_stored(store.snapshot(version.source), version.files):
        _write_snapshot(store.snapshot(version.source), version.files, repository)
    is_tracked = bool(git("ls-files", "runner.py"))  # else git would speak of a repository that this one lies in
    write_text(store.snapshot(version.source, ".diff"), _diff() if is_tracked else "")
    stored = StoredCode(
        source=version.source,
        files=version.files,
        packages=version.packages,
        data=version.data,
        commit=git("rev-parse", "HEAD") if is_tracked else "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        generation=generation,
    )
    write_stored_code(store, stored)


def write_stored_code(store: SweepStore, stored: StoredCode) -> None:
    """Replaces code.json."""
    write_json(store.code, sealed(asdict(stored)))


def checked_snapshot(store: SweepStore, stored: StoredCode) -> Path:
    """The folder of the stored source.

    Raises:
        UserError: where a file of it is not as it was stored.
    """
    folder = store.snapshot(stored.source)
    if damaged := _not_as_stored(folder, stored.files):
        raise UserError(
            f"{folder}: damaged: {damaged[0]} is not as it was stored ({len(damaged)} of {len(stored.files)} files);"
            " expected the whole source for --code keep; --code new runs all trials anew with the present source"
        )
    return folder


def _not_as_stored(folder: Path, files: Mapping[str, str]) -> list[str]:
    return [name for name, digest in files.items() if _sha256(folder / name) != digest]


def _sha256(file: Path) -> str:
    """Empty where there is no such file."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _write_snapshot(folder: Path, files: Mapping[str, str], repository: Path) -> None:
    """The folder appears whole."""
    pending = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(pending, ignore_errors=True)  # left by a runner that was killed
    for name in files:
        (pending / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / name, pending / name)
    if changed := _not_as_stored(pending, files):
        raise UserError(f"{changed[0]} was changed while it was stored; expected it to stay: start the command again")
    shutil.rmtree(folder, ignore_errors=True)  # the same source, less what computes nothing
    os.rename(pending, folder)
    sync_folder(folder.parent)


def _diff() -> str:
    """How the source differs from its commit: new files by name, then a patch."""
    new = git("ls-files", "--others", "--exclude-standard", "--", "*.py").splitlines()
    patch = git("diff", "--no-color", "--no-ext-diff", "HEAD")
    return "".join(f"{line}\n" for line in [*(f"untracked: {name}" for name in new), *([patch] if patch else [])])
