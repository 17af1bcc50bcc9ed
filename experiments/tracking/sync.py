"""`python runner.py sync SPEC`: sends to W&B what was not sent while the sweep ran, into the same runs.

It is made from the results, not from offline runs: what the server has of a run is asked, and the rest is sent. So it
can be repeated, and it does not matter how often which mirror was killed. Offline runs that are covered by it are
marked as sent, so that `wandb sync` leaves them alone.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from experiments.errors import UserError, printable
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore
from experiments.tracking.connection import choose_connection, probe
from experiments.tracking.mirror import Mirror
from experiments.tracking.paths import WandbPaths
from experiments.tracking.run_writer import RefusedError, UnreachableError
from experiments.tracking.session import alone, mirror_orders, online_mirror

TRIES = 3
"""To reach a server that does not answer, in a row."""


@dataclass(frozen=True)
class SyncOptions:
    """The command line of `sync`.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()


def sync(file: Path, options: SyncOptions) -> int:
    """Sends what is missing.

    Returns:
        The exit status: 0 the server has every trial that has ended, 1 something could not be sent.

    Raises:
        UserError: for a fault in the spec or the command line, where there is no API key, and while another process
            mirrors the sweep.
    """
    spec = load_spec_of_sweep(file, options.settings, options.results)
    store = SweepStore(options.results / spec.name)
    console = Console(soft_wrap=not sys.stdout.isatty())
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    logging.getLogger("wsol.data").setLevel(logging.ERROR)  # what is odd about the data was said when it trained

    def say(line: str) -> None:
        console.print(Text(printable(line)))

    if not store.trial_names():
        say(f"no trial of {spec.name} has begun in {store.folder}")
        return 1
    connection = choose_connection(spec.tracking.wandb, os.environ, home=Path.home(), must_send=True)
    if connection.mode != "online":
        raise UserError(
            f"got no API key for {connection.host}; expected one in WANDB_API_KEY or ~/.netrc (`wandb login`)"
        )
    if problem := probe(connection.base_url):
        say(f"W&B: {problem}; nothing was sent")
        return 1
    with alone(WandbPaths(store.wandb)):
        try:
            mirror = online_mirror(mirror_orders(spec, store, connection), say)
            _send(mirror)
            if lost := _incomplete(mirror):
                for run_id in lost:
                    mirror.send_again(run_id)
                _send(mirror)
                lost = _incomplete(mirror)
        except (UnreachableError, RefusedError) as error:
            say(f"W&B: {connection.host}: {error}")
            say("what was sent is there; run the command again for the rest")
            return 1
        left = mirror.left()
        _mark_offline_runs(mirror, Path(os.environ.get("WANDB_DIR") or store.folder))
        mirror.close()
    unfinished = len(store.trial_names()) - mirror.ended() - left
    say(f"{spec.name}: {mirror.ended()} trials are at W&B, {mirror.newly_sent} of them sent now")
    if unfinished > 0:
        say(f"{unfinished} have not ended: they are sent when they have")
    if lost:
        say(f"{len(lost)} runs have fewer rows at W&B than their trials have epochs: {', '.join(lost[:3])}")
    return 1 if left or lost else 0


def _send(mirror: Mirror) -> None:
    """Raises UnreachableError when it went wrong too often without getting on."""
    failures, sent = 0, mirror.newly_sent
    while True:
        try:
            mirror.look()
        except UnreachableError:
            failures = failures + 1 if mirror.newly_sent == sent else 1
            sent = mirror.newly_sent
            if failures == TRIES:
                raise
        else:
            return


def _incomplete(mirror: Mirror) -> list[str]:
    """Runs of ended trials of which the server has fewer rows than the trial has."""
    from experiments.tracking.wandb_runs import history_lengths

    at = mirror.identity
    lengths = history_lengths(project=at.project, entity=at.entity, group=mirror.sweep)
    return [run_id for run_id, rows in mirror.ended_rows().items() if lengths.get(run_id, 0) < rows]


def _mark_offline_runs(mirror: Mirror, folder: Path) -> None:
    from experiments.tracking.wandb_runs import mark_synced, offline_folders

    for run_id in mirror.ended_rows():
        for run in offline_folders(folder, run_id):
            mark_synced(run)
