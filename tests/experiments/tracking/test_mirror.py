"""From trial folders to runs: every row once, in order, whatever is killed when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recorded_runs import MirrorKilledError, RecordedServer
from written_sweep import EPOCHS, WrittenSweep

from experiments.metrics_file import append_metrics
from experiments.store import TrialResult, write_result
from experiments.tracking import mirror as mirror_module
from experiments.tracking.identity import identity_of
from experiments.tracking.mirror import MAX_TRIES, Mirror
from experiments.tracking.paths import WandbPaths
from experiments.tracking.run_writer import UnreachableError
from experiments.tracking.sent_trials import SentTrials
from experiments.trial import TrialState

Written = Callable[..., WrittenSweep]


def mirror_of(sweep: WrittenSweep, server: RecordedServer, *, live: bool = True) -> Mirror:
    """A new process's."""
    paths = WandbPaths(sweep.store.wandb)
    return Mirror(
        store=sweep.store,
        sweep=sweep.spec.name,
        swept_keys=sweep.spec.swept_keys,
        identity=identity_of(paths),
        sent=SentTrials(paths.sent, place="here"),
        writer=server.writer(),
        live=live,
        say=lambda line: said.append(line),
    )


said: list[str] = []


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    said.clear()


def steps(server: RecordedServer) -> list[list[int]]:
    """Of each run, in the order of their ids."""
    return [[step for step, _ in run.rows] for _, run in sorted(server.runs.items())]


def test_a_complete_trial(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    (trial,) = sweep.complete([1])
    mirror = mirror_of(sweep, server)
    mirror.look()
    ((run_id, run),) = server.runs.items()
    assert run_id == f"written-{mirror.identity.id}-{trial.signature[:8]}"
    assert (run.head.name, run.head.group, run.head.job_type) == ("0001 lr=0.001 count=20 seed=0", "written", "search")
    assert run.head.config["train"]["lr"] == 0.001
    assert run.head.config["trial"]["number"] == 1
    assert [step for step, _ in run.rows] == [0, 1, 2, 3]
    assert [row["epoch"] for _, row in run.rows[:EPOCHS]] == [1, 2, 3]
    (end,) = run.ends
    assert (end.exit_code, end.summary["state"], end.summary["ap50_11pt/mean"]) == (0, "COMPLETE", 0.13)
    assert "ap50_11pt/digit_9" not in end.summary, "undefined"
    assert len(run.media[3].pictures.pictures) == 3
    assert run.media[3].table[0] == ["class", "ap50_11pt"]
    assert len(run.media[3].table[1]) == 10
    assert mirror.left() == 0


def test_a_trial_is_followed_while_it_trains(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    mirror = mirror_of(sweep, server)
    mirror.look()
    assert not server.runs
    trial = sweep.begin(0)
    mirror.look()
    assert not server.runs, "nothing to say yet"
    for epoch in range(1, EPOCHS + 1):
        sweep.train(trial, epochs=1)
        mirror.look()
        assert steps(server) == [list(range(epoch))]
    calls = server.calls
    mirror.look()
    assert server.calls == calls, "nothing has come"
    sweep.end(trial)
    mirror.look()
    assert steps(server) == [[0, 1, 2, 3]]
    assert [run.opened for run in server.runs.values()] == [1]
    assert not any(run.is_open for run in server.runs.values())


def test_offline_a_trial_is_written_when_it_has_ended(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    trial = sweep.begin(0)
    sweep.train(trial, epochs=2)
    mirror = mirror_of(sweep, server, live=False)
    mirror.look()
    assert not server.runs
    sweep.train(trial, epochs=1)
    sweep.end(trial)
    mirror.look()
    assert steps(server) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("state", "code"), [(TrialState.FAIL, 1), (TrialState.PRUNED, 0)])
def test_a_trial_that_did_not_complete_and_is_taken_up_again(written: Written, state: TrialState, code: int) -> None:
    sweep, server = written(), RecordedServer()
    trial = sweep.begin(0)
    sweep.train(trial, epochs=2)
    trial.paths.log.write_text("a\nthe reason\n")
    sweep.end(trial, state, "why")
    mirror = mirror_of(sweep, server)
    mirror.look()
    (run,) = server.runs.values()
    assert (run.ends[0].exit_code, run.ends[0].summary["stop_reason"]) == (code, "why")
    assert run.ends[0].summary.get("log_tail") == ("a\nthe reason" if state is TrialState.FAIL else None)
    assert run.ends[0].tags[-1] == state.value
    assert not run.media
    trial.paths.result.unlink()
    sweep.train(trial, epochs=1)
    sweep.end(trial)
    for again in (lambda: mirror, lambda: mirror_of(sweep, server)):
        again().look()
        assert steps(server) == [[0, 1, 2, 3]]
        assert [end.summary["state"] for end in run.ends] == [state.value, "COMPLETE"]


def test_epochs_that_are_trained_again_are_not_sent_again(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    trial = sweep.begin(0)
    sweep.train(trial, epochs=2)
    mirror = mirror_of(sweep, server)
    mirror.look()
    trial.paths.metrics.unlink()  # the checkpoint was older
    for _ in range(EPOCHS):
        sweep.train(trial, epochs=1)
        mirror.look()
    assert steps(server) == [[0, 1, 2]]


def test_what_was_sent_is_not_opened_again(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    sweep.complete([0, 1])
    mirror_of(sweep, server).look()
    calls = server.calls
    mirror = mirror_of(sweep, server)
    mirror.look()
    assert (server.calls, mirror.left(), mirror.newly_sent, mirror.ended()) == (calls, 0, 0, 2)


def test_without_a_memory_of_it_nothing_is_doubled(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    sweep.complete([0])
    mirror_of(sweep, server).look()
    WandbPaths(sweep.store.wandb).sent.unlink()
    mirror_of(sweep, server).look()
    (run,) = server.runs.values()
    assert ([step for step, _ in run.rows], run.opened, len(run.ends)) == ([0, 1, 2, 3], 2, 2)


def test_a_server_that_is_away(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    sweep.complete([0, 1])
    server.is_down = True
    mirror = mirror_of(sweep, server)
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(UnreachableError, match="no answer"):
            mirror.look()
    assert mirror.left() == 2, "it is no fault of the trials"
    server.is_down = False
    mirror.look()
    assert (steps(server), mirror.left()) == ([[0, 1, 2, 3]] * 2, 0)


def test_a_server_that_is_away_while_a_trial_trains(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    trial = sweep.begin(0)
    mirror = mirror_of(sweep, server)
    for epochs in (1, 2):
        sweep.train(trial, epochs=1)
        server.is_down = True
        with pytest.raises(UnreachableError, match="no answer"):
            mirror.look()
        server.is_down = False
        mirror.look()
        assert steps(server) == [list(range(epochs))], "without another epoch"
    assert [run.opened for run in server.runs.values()] == [2], "a run that failed is opened again"


def test_open_runs_are_few(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "MAX_OPEN", 2)
    sweep, server = written(), RecordedServer()
    trials = [sweep.begin(number) for number in range(4)]
    for trial in trials:
        sweep.train(trial, epochs=EPOCHS)
    mirror = mirror_of(sweep, server)
    mirror.look()
    assert len(server.runs) == 2
    for trial in trials[2:]:
        sweep.end(trial)
    mirror.look()
    for trial in trials[:2]:
        sweep.end(trial)
    mirror.look()
    assert (len(server.runs), steps(server)) == (4, [[0, 1, 2, 3]] * 4)
    assert server.most_open == 3, "one that has ended is opened and finished at once"


def test_a_trial_that_cannot_be_mirrored_is_in_nobodys_way(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    bad, _ = sweep.complete([0, 1])
    append_metrics(bad.paths, {"epoch": "three", "duration_s": 1.0})
    mirror = mirror_of(sweep, server)
    for _ in range(MAX_TRIES + 1):
        mirror.look()
    assert [line.partition(" (")[0] for line in said] == ["W&B: trial 0 cannot be mirrored"]
    assert [len(run.ends) for run in server.runs.values()].count(1) == 1
    assert mirror.left() == 0


def test_open_runs_are_left_when_the_sweep_is_interrupted(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    trial = sweep.begin(0)
    sweep.train(trial, epochs=1)
    mirror = mirror_of(sweep, server)
    mirror.look()
    mirror.interrupt()
    mirror.interrupt()
    (run,) = server.runs.values()
    assert (run.interrupted, run.is_open) == (1, False)


def test_folders_that_are_not_whole_are_left_alone(written: Written) -> None:
    sweep, server = written(), RecordedServer()
    one, two = sweep.begin(0), sweep.begin(1)
    one.paths.config.unlink()  # it is being made
    sweep.train(two, epochs=1)
    write_result(two.paths, TrialResult("0" * 64, TrialState.COMPLETE, "", 1, {}, 1, 1.0))  # another trial's
    mirror = mirror_of(sweep, server)
    mirror.look()
    assert not server.runs


def test_killed_at_every_instant(written: Written) -> None:
    sweep = written()
    sweep.complete([0])
    sweep.train(sweep.begin(1), epochs=2)
    whole = RecordedServer()
    mirror_of(sweep, whole).look()
    for calls in range(whole.calls):
        server = RecordedServer()
        WandbPaths(sweep.store.wandb).sent.unlink()
        server.kill_after = calls
        with pytest.raises(MirrorKilledError, match="within a call"):
            mirror_of(sweep, server).look()
        server.kill_after = None
        mirror = mirror_of(sweep, server)
        mirror.look()
        assert sorted(steps(server)) == [[0, 1], [0, 1, 2, 3]], calls
        assert mirror.left() == 0
        assert [run.ends[-1].exit_code for run in server.runs.values() if run.ends] == [0]
        assert [list(run.media) for run in server.runs.values() if run.ends] == [[3]]
