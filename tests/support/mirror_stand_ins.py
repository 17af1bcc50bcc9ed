"""What may run in the place of the mirror's process: importable by name, as a fresh interpreter must find it."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.child_process import lead_a_session
from experiments.tracking.mirror_process import END, Finished, Health, Said
from experiments.tracking.session import MirrorOrders


def polite(orders: MirrorOrders, pipe: Connection) -> None:
    """Ends when it is told to."""
    lead_a_session()
    pipe.send(Said("hello"))
    pipe.send(Health(True))
    assert pipe.recv() == END
    pipe.send(Finished(left=0))


def with_rest(orders: MirrorOrders, pipe: Connection) -> None:
    """Could not send all."""
    lead_a_session()
    assert pipe.recv() == END
    pipe.send(Finished(left=3))


def deaf_but_well(orders: MirrorOrders, pipe: Connection) -> None:
    """Never ends, and says that all is well."""
    lead_a_session()
    pipe.send(Health(True))
    pipe.send(Said(f"process {os.getpid()}"))
    threading.Event().wait()


def deaf(orders: MirrorOrders, pipe: Connection) -> None:
    """Never ends, nor says anything of its health."""
    lead_a_session()
    pipe.send(Said(f"process {os.getpid()}"))
    threading.Event().wait()


def killed(orders: MirrorOrders, pipe: Connection) -> None:
    """Leaves a line in the sweep's folder, then dies."""
    lead_a_session()
    with (Path(orders.folder) / "starts.txt").open("a") as file:
        file.write("started\n")
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(orders: MirrorOrders, pipe: Connection) -> None:
    """Dies the first time."""
    if not (Path(orders.folder) / "starts.txt").exists():
        killed(orders, pipe)
    polite(orders, pipe)
