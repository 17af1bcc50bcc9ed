"""A sweep goes on with the source, packages and data that it began with, or asks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from experiments.code_version import REPOSITORY, CodeVersion, differences, source_of
from experiments.errors import UserError
from experiments.storage_url import OPTION, VARIABLE, without_storage
from experiments.store import SweepStore, number_of
from experiments.stored_code import StoredCode, checked_snapshot, read_stored_code, store_code, write_stored_code

log = logging.getLogger(__name__)

Choice = Literal["keep", "new"]
"""`keep`: with the stored source. `new`: with the present one, all trials anew."""

SNAPSHOT = "WSOL_CODE_SNAPSHOT"
"""Environment variable of a process that runs a stored source, and of all that come of it: the folder."""

_SHOWN = 4


def run_stored_source(store: SweepStore, arguments: Sequence[str], *, storage: str | None = None) -> None:
    """Where another source than the present one is stored, this process becomes one that runs it. Else it returns.

    The fork server and the attempts must import the stored source, too. A PYTHONPATH comes before an installed project;
    PYTHONSAFEPATH keeps out the working directory, where the present source may be.

    Args:
        arguments: of the command line.
        storage: URL that they name; it goes on in the environment, as it may have a password.

    Raises:
        UserError: where the stored source is damaged, or is from before there was a storage to name.
    """
    stored = read_stored_code(store)
    if stored is None or not _has_trained(store) or SNAPSHOT in os.environ or source_of(REPOSITORY) == stored.source:
        return
    folder = str(checked_snapshot(store, stored).resolve())
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, SNAPSHOT: folder, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    if storage is not None:
        environment[VARIABLE] = storage
    if environment.get(VARIABLE) and not any(name.endswith("/storage_url.py") for name in stored.files):
        raise UserError(
            f"{store.folder}: the source that is stored with this sweep knows no {OPTION} and no {VARIABLE}; expected"
            " neither with --code keep, so that its study is the file in its folder"
        )
    command = [sys.executable, os.path.join(folder, "runner.py"), *without_storage(arguments)]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # where exec returns to the shell at once
        raise SystemExit(subprocess.run(command, env=environment).returncode)
    os.execve(sys.executable, command, environment)


def generation(store: SweepStore, version: CodeVersion, choice: Choice | None) -> str:
    """What `ExperimentConfig.code` is to be in this run's trials.

    Raises:
        UserError: where it cannot be told, see `read_stored_code`; never for `new`.
    """
    stored = _stored(store, choice)
    if choice == "new" and _has_trained(store) and (stored is None or differences(stored.version, version)):
        return version.fingerprint
    return stored.generation if stored is not None else ""


def refusal(store: SweepStore, version: CodeVersion, choice: Choice | None) -> str:
    """Why a sweep cannot go on like this, and how it can; empty where it can."""
    stored = _stored(store, choice)
    if choice == "new" or stored is None or not _has_trained(store):
        return ""
    changes = differences(stored.version, version)
    if choice == "keep" and stored.source != version.source:
        return f"{store.folder}: the stored source is not what runs; expected {SNAPSHOT} not to be set"
    if choice == "keep" or not changes:
        return ""
    return (
        f"{store.folder}: what this sweep trains with has changed since {stored.since}: {_shown(changes)}; nothing was"
        f" started. Add --code keep to go on with the stored source{_not_kept(stored, version)}, or --code new to run"
        " all trials anew with the present one (the old ones stay on disk)"
    )


def admit(store: SweepStore, version: CodeVersion, *, choice: Choice | None, code: str) -> None:
    """Lets a run begin: what it trains with is what is stored, or is stored now. Call it under the sweep's lock.

    Args:
        code: `ExperimentConfig.code` of the run's trials.

    Raises:
        UserError: where the sweep cannot go on like this; nothing was written.
    """
    if reason := refusal(store, version, choice):
        raise UserError(reason)
    stored = _stored(store, choice)
    is_begun = _has_trained(store)
    if stored is None or not is_begun:
        if is_begun and choice != "new":
            log.warning("%s: begun before sources were stored; the present one counts as its own", store.folder)
        store_code(store, version, generation=code)
        return
    changes = differences(stored.version, version)
    if choice == "new" and changes:
        store_code(store, version, generation=code)
        return
    if stored.generation != code:
        raise UserError(f"{store.folder}: another run has just begun all trials anew; start the command again")
    if changes:
        log.warning("what cannot be kept has changed since %s: %s", stored.since, _shown(changes))
    if version.data.keys() - stored.data.keys():  # the spec has gained some
        write_stored_code(store, replace(stored, data={**version.data, **stored.data}))


def _has_trained(store: SweepStore) -> bool:
    """Whether anything is there that a source has computed. Trials that failed before an epoch may run with another."""
    folders = [store.trial_paths(number_of(name), name.partition("-")[2]) for name in store.trial_names()]
    return any(paths.metrics.exists() or paths.checkpoint.exists() for paths in folders)


def _stored(store: SweepStore, choice: Choice | None) -> StoredCode | None:
    """`new` needs none, so that a damaged one does not stop it."""
    try:
        return read_stored_code(store)
    except UserError:
        if choice != "new":
            raise
        return None


def _shown(changes: Sequence[str]) -> str:
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return ", ".join(changes[:_SHOWN]) + more


def _not_kept(stored: StoredCode, version: CodeVersion) -> str:
    others = differences(replace(stored, files=version.files, source=version.source).version, version)
    return " (packages and data stay as they are now)" if others else ""
