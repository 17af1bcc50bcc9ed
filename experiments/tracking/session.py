"""One process that writes a sweep to W&B, from its orders to a mirror that is ready. Imports wandb when it connects."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.lock import sweep_lock
from experiments.spec import SweepSpec
from experiments.store import SweepStore
from experiments.tracking.connection import Connection, without_run_variables
from experiments.tracking.identity import Identity, identity_of, write_identity
from experiments.tracking.leftover_processes import end_leftover_processes, mark_descendants
from experiments.tracking.mirror import Mirror
from experiments.tracking.paths import WandbPaths
from experiments.tracking.run_writer import RefusedError, UnreachableError
from experiments.tracking.sent_trials import SentTrials
from experiments.tracking.sweep_config import sweep_config


@dataclass(frozen=True)
class MirrorOrders:
    """What is to be mirrored, and where to. Plain values, for a process of its own.

    Attributes:
        folder: of the sweep's results.
        sweep: its name.
        config: of the W&B sweep.
    """

    folder: Path
    sweep: str
    swept_keys: Sequence[str]
    config: Mapping[str, Any]
    connection: Connection


def mirror_orders(spec: SweepSpec, store: SweepStore, connection: Connection) -> MirrorOrders:
    """Of a spec."""
    return MirrorOrders(
        folder=store.folder.resolve(),
        sweep=spec.name,
        swept_keys=spec.swept_keys,
        config=sweep_config(spec),
        connection=connection,
    )


@contextlib.contextmanager
def alone(paths: WandbPaths) -> Iterator[None]:
    """Makes this process the only one that writes the sweep to W&B: two would number rows in each other's way.

    Raises:
        UserError: where another one does.
    """
    for name in os.environ.keys() - without_run_variables(os.environ).keys():
        del os.environ[name]
    os.environ["WANDB_SILENT"] = "true"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # telemetry of wandb's own
    with sweep_lock(paths.lock):
        end_leftover_processes(paths.folder)
        mark_descendants(paths.folder)
        yield


def online_mirror(orders: MirrorOrders, say: Callable[[str], None]) -> Mirror:
    """Connects. Takes as long as the server does.

    Raises:
        UnreachableError: where the server does not answer as one of W&B does.
        RefusedError: where it refuses the key.
        UserError: where the sweep's identity is damaged.
    """
    from experiments.tracking.wandb_runs import WandbRuns, account_entity

    store, to = SweepStore(orders.folder), orders.connection
    paths = WandbPaths(store.wandb)
    own = account_entity()
    entity = to.entity or own
    identity = identity_of(paths).at(base_url=to.base_url, entity=entity, project=to.project)
    if not identity.sweep:
        identity = identity.with_sweep(_new_sweep(orders, entity, say))
    write_identity(paths, identity)
    writer = WandbRuns(folder=store.folder, mode="online", project=to.project, entity=entity, sweep=identity.sweep)
    sent = SentTrials(paths.sent, place=f"{to.base_url}/{entity}/{to.project}")
    return _mirror(orders, identity, sent, writer, say, live=True)


def offline_mirror(orders: MirrorOrders, say: Callable[[str], None]) -> Mirror:
    """Runs are written once they have ended, whole: an offline run cannot be gone on with, and nobody watches it."""
    from experiments.tracking.wandb_runs import WandbRuns

    store, to = SweepStore(orders.folder), orders.connection
    paths = WandbPaths(store.wandb)
    identity = identity_of(paths)
    folder = Path(os.environ.get("WANDB_DIR") or store.folder)
    writer = WandbRuns(folder=folder, mode="offline", project=to.project, entity=to.entity, sweep=identity.sweep)
    return _mirror(orders, identity, SentTrials(paths.sent, place=f"offline {folder}"), writer, say, live=False)


def _mirror(
    orders: MirrorOrders, identity: Identity, sent: SentTrials, writer: Any, say: Callable[[str], None], *, live: bool
) -> Mirror:
    return Mirror(
        store=SweepStore(orders.folder),
        sweep=orders.sweep,
        swept_keys=orders.swept_keys,
        identity=identity,
        sent=sent,
        writer=writer,
        live=live,
        say=say,
    )


def _new_sweep(orders: MirrorOrders, entity: str, say: Callable[[str], None]) -> str:
    """The id of a W&B sweep for the runs; empty where the server allows none: the group holds them together."""
    from experiments.tracking.wandb_runs import create_sweep

    try:
        return create_sweep(orders.config, project=orders.connection.project, entity=entity)
    except (UnreachableError, RefusedError) as error:
        say(f"W&B: no sweep could be made ({error}); the runs are in group {orders.sweep}")
        return ""


def offline_instead(orders: MirrorOrders, reason: str) -> MirrorOrders:
    """The same, after it was found that W&B cannot be written to."""
    return replace(orders, connection=orders.connection.offline(reason))
