"""What a sweep is at W&B, kept in its folder: every process and machine that has the folder speaks of the same.

A sweep's runs have ids made of its name, an identifier that is drawn once, and the trial's signature. So a trial has
one run over all attempts, resumes and machines, and sweeps of one name in two folders have different runs.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from experiments.errors import UserError
from experiments.json_file import read_json, write_json
from experiments.sealed import sealed
from experiments.tracking.paths import WandbPaths

MAX_NAME = 36
"""Characters of the sweep's name in a run's id. W&B takes ids of up to 64 (128 since 2024, which servers differ in)."""


@dataclass(frozen=True)
class Identity:
    """A sweep at W&B.

    Attributes:
        id: 8 hex digits, drawn once.
        base_url: the server that knows the rest; empty before anything was sent.
        entity: whose project it is, as the server said; empty before anything was sent.
        project: likewise.
        sweep: id of the W&B sweep; empty where there is none.
        report: id of the W&B report; empty where there is none.
    """

    id: str
    base_url: str = ""
    entity: str = ""
    project: str = ""
    sweep: str = ""
    report: str = ""

    def at(self, *, base_url: str, entity: str, project: str) -> Identity:
        """The same at some place: what is known of another server, account or project is forgotten.

        Args:
            entity: empty: the account's own, so whatever is known stays.
        """
        is_same = (base_url, project) == (self.base_url, self.project) and entity in ("", self.entity)
        return self if is_same else Identity(self.id, base_url=base_url, entity=entity, project=project)

    def run_id(self, sweep_name: str, signature: str) -> str:
        """Of a trial's run: at most 64 characters of W&B's alphabet."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", sweep_name)[:MAX_NAME]
        return f"{name}-{self.id}-{signature[:8]}"

    def with_sweep(self, sweep: str) -> Identity:
        """The same as part of a W&B sweep."""
        return replace(self, sweep=sweep)


_IDENTITY = TypeAdapter(Identity)


def read_identity(paths: WandbPaths) -> Identity | None:
    """What is kept; None where nothing is.

    Raises:
        UserError: where the file is damaged: with another identifier every trial would get a second run.
    """
    if not paths.identity.exists():
        return None
    values = read_json(paths.identity)
    try:
        identity = _IDENTITY.validate_python(values)
    except ValidationError:
        identity = None
    if identity is None or not re.fullmatch(r"[0-9a-f]{8}", identity.id):
        raise UserError(
            f"{paths.identity}: damaged, so that it cannot be told which W&B runs are this sweep's; bring it back, or"
            " remove it to begin new runs"
        )
    return identity


def identity_of(paths: WandbPaths) -> Identity:
    """What is kept, which is made where there is nothing yet. Call it under the mirror's lock.

    Raises:
        UserError: see `read_identity`.
    """
    identity = read_identity(paths)
    if identity is None:
        identity = Identity(uuid.uuid4().hex[:8])
        write_identity(paths, identity)
    return identity


def write_identity(paths: WandbPaths, identity: Identity) -> None:
    """Keeps it."""
    write_json(paths.identity, sealed(asdict(identity)))
