"""`--executor`: which implementation of the contract runs a sweep's attempts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from experiments.errors import UserError
from experiments.executors.base import Executor
from experiments.slots import Slot

ExecutorName = Literal["local", "ray"]


class ClusterTerms(TypedDict):
    """What is to be used of a cluster's nodes; see `RayExecutor`."""

    cpu_slots: int | None
    on_gpus: bool | None
    places: int


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
def ray_executor(
    *, address: str | None, folder: Path, say: Callable[[str], None], **terms: Unpack[ClusterTerms]
) -> Iterator[Executor]:
    """Tasks of a Ray cluster; see `connected` and `RayExecutor` for the arguments and what is raised."""
    from experiments.executors.ray_connection import connected

    with connected(address):
        from experiments.executors.ray_executor import RayExecutor

        executor = RayExecutor(folder=folder, say=say, **terms)
        with contextlib.closing(executor):
            yield executor


def ray_slots(address: str | None, **terms: Unpack[ClusterTerms]) -> list[Slot]:
    """Where trials would run if nobody else used the cluster. Nothing is checked, reserved or started."""
    from experiments.executors.ray_connection import connected

    with connected(address):
        from experiments.executors.ray_nodes import possible_slots

        return possible_slots(**terms)
