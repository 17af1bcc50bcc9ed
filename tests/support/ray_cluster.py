"""A real Ray cluster whose nodes are all on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parent
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


class RayCluster:
    """A head with a core, on which the runner is, and other nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # What tests put in the place of ours must be found by Ray's workers, too.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": False,
                # Else Ray ends workers that do nothing for a second, and with them warm fork servers.
                "_system_config": {"idle_worker_killing_time_threshold_ms": 60_000},
            },
        )
        self.address: str = self._cluster.address

    @contextlib.contextmanager
    def node(self, **arguments: Any) -> Iterator[Any]:
        """One more node, `num_cpus=1` by default, that is gone afterwards."""
        node = self._cluster.add_node(**{"num_cpus": 1, **arguments})
        try:
            yield node
        finally:
            if node.any_processes_alive():
                self._cluster.remove_node(node)  # which says goodbye: else Ray has it as alive for a while

    @contextlib.contextmanager
    def node_with_mounts(self, *mounts: str) -> Iterator[None]:
        """One more node, in which a folder or a file is another one than here: a machine of its own in this regard.

        Args:
            mounts: what `mount` is given, each as one text.
        """
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={self.address}"]
        started = [*ray, "--num-cpus=1", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
        script = "".join(f"mount {mount} && " for mount in mounts) + 'exec "$@"'
        node = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script, "sh", *started],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        try:
            assert node.stdout is not None
            assert any("Ray runtime started." in line for line in node.stdout), "it ended before it was there"
            yield
        finally:
            node.terminate()
            node.communicate()

    def kill(self, node: Any) -> None:
        """SIGKILL for everything of a node but Ray's workers, which have to see for themselves."""
        self._cluster.remove_node(node, allow_graceful=False)

    def alive(self) -> int:
        """Nodes that have joined and are not known to be dead."""
        return sum(node["Alive"] for node in self._cluster.global_state.node_table())

    def shutdown(self) -> None:
        """Ends all of it."""
        self._cluster.shutdown()
