"""`--executor`: which implementation of the contract runs a sweep's attempts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from experiments.errors import UserError
from experiments.executors.base import Executor
from experiments.executors.ray_bundles import Share
from experiments.slots import Slot
from experiments.view import counted

ExecutorName = Literal["local", "ray"]


def check_choice(*, executor: ExecutorName, ray_address: str | None, gpus: str | None) -> None:
    """Options that do not go together.

    Raises:
        UserError: says which do.
    """
    if executor == "local" and ray_address is not None:
        raise UserError(f"got --ray-address {ray_address} without --executor ray; expected both, or neither")
    if executor == "ray" and gpus is not None:
        raise UserError(
            f"got --gpus {gpus} with --executor ray; expected one of the two: a position among one machine's GPUs says"
            " nothing in a cluster. `ray start --num-gpus` says how many GPUs a node offers"
        )


@contextlib.contextmanager
def local_executor(slots: Sequence[Slot]) -> Iterator[Executor]:
    """Processes of this machine."""
    from experiments.executors.local import LocalExecutor

    with contextlib.closing(LocalExecutor(slots=slots)) as executor:
        yield executor


@contextlib.contextmanager
def ray_executor(address: str | None, *, folder: Path, share: Share, say: Callable[[str], None]) -> Iterator[Executor]:
    """Tasks of a Ray cluster, which is said; see `connected` and `RayExecutor` for the arguments and what is raised."""
    from experiments.executors.ray_connection import connected

    with connected(address):
        from experiments.executors.ray_executor import RayExecutor

        with contextlib.closing(RayExecutor(folder=folder, share=share, say=say)) as executor:
            slots = executor.slots
            kind = "GPUs" if slots[0].visible_devices else "cores"
            nodes = counted(len({slot.node for slot in slots}), "node")
            say(f"training on the {kind} of {nodes} of a Ray cluster: {counted(len(slots), 'trial')} at a time")
            yield executor


def ray_slots(address: str | None, *, share: Share) -> list[Slot]:
    """Where trials would run if nobody else used the cluster. Nothing is checked, reserved or started."""
    from experiments.executors.ray_connection import connected

    with connected(address):
        from experiments.executors.ray_nodes import possible_slots

        return possible_slots(share)
