"""The connection to a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Iterator

from experiments.code_version import REPOSITORY
from experiments.errors import UserError
from wsol.parent_death import STOPPING_SIGNALS

ADDRESS = "RAY_ADDRESS"
_ANSWERS_WITHIN_S = 10.0
_HOW_TO_START = "`ray start --head` starts a cluster on this machine, see docs/clusters.md"


def require_ray() -> None:
    """Ray is no part of the ordinary installation.

    Raises:
        UserError: where it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("got --executor ray, and Ray is not installed; install it by `pip install '.[ray]'`")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to a cluster that runs, which needs a node of it on this machine.

    Args:
        address: HOST:PORT of the head; None: what RAY_ADDRESS says, else the cluster of this machine.

    Raises:
        UserError: where there is no such cluster.
    """
    require_ray()
    given = address or os.environ.get(ADDRESS) or "auto"
    where = "--ray-address" if address else ADDRESS
    if given != "auto":
        _check_address(given, where)
    _connect(given, where if given != "auto" else "")
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def _check_address(given: str, where: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = given.rpartition(":")
    if "://" in given or not host or not port.isdecimal():
        raise UserError(f"got {given!r} for {where}; expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"got {given} for {where}, where nothing answers ({error}); expected the head of a Ray cluster:"
            f" {_HOW_TO_START}"
        ) from None


def _connect(given: str, where: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will do one day
    import ray

    logging.getLogger("ray").setLevel(logging.WARNING)
    handlers = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    # Ray puts the working directory first in the import path of its workers. With a stored source (--code keep) the
    # present one is there, which must not run.
    try:
        with contextlib.chdir(REPOSITORY):
            ray.init(address=given, configure_logging=False, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if not where:
            raise UserError(
                f"got --executor ray without an address, and no Ray cluster runs on this machine ({reason}); expected"
                f" one, or --ray-address HOST:PORT: {_HOW_TO_START}"
            ) from None
        raise UserError(
            f"got {given} for {where}, and cannot join it ({reason}); expected a cluster with a node on this machine:"
            f" `ray start --address={given}` makes this machine one, see docs/clusters.md"
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray takes SIGTERM, with which a batch system stops a sweep
            signal.signal(number, handler)
    _be_quiet()


def _be_quiet() -> None:
    """Ray prints pages of a node's log when it dies, whatever `log_to_driver` says. The runner says it in a line."""
    import ray._private.worker as printer

    printer.print_to_stdstream = lambda data, ignore_prefix: None
