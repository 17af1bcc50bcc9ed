"""What runs in the process that makes what trials share. A door to torch, like the worker."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from experiments.child_process import failure_kind, lead_a_session, one_line, send_warnings
from experiments.executors.base import AttemptError


@dataclass(frozen=True)
class Prepared:
    """Images whose proposals are there, and images in all."""

    done: int
    total: int


def run_preparation(configs: Sequence[Mapping[str, Any]], workers: int, connection: Connection) -> None:
    """The whole life of the process that makes what trials share: generated data, proposals.

    Args:
        configs: of every trial that will run.
        connection: takes `Prepared`, warnings as text, and at most one `AttemptError`.
    """
    lead_a_session()
    from wsol.build import prepare_data
    from wsol.config import ExperimentConfig

    send_warnings("wsol.data", connection)
    try:
        prepare_data(
            [ExperimentConfig.model_validate(dict(config)) for config in configs],
            workers=workers,
            on_progress=lambda done, total: connection.send(Prepared(done=done, total=total)),
        )
    except Exception as error:
        details = traceback.format_exc()
        connection.send(AttemptError(kind=failure_kind(error), message=one_line(error), details=details))
