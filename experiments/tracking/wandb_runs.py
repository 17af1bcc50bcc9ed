"""W&B runs, online and offline: the only module that imports wandb. For processes that nobody waits for.

An epoch's step at W&B follows from its number, so the step at which a resumed run goes on tells which rows the server
has. What was in flight when a process was killed is sent again or is there: never twice, never missing.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.tracking.run_content import PER_CLASS, PICTURES, RunEnd, RunHead
from experiments.tracking.run_writer import Media, RefusedError, UnreachableError
from experiments.tracking.trial_pictures import BoxOnPicture, Picture

if TYPE_CHECKING:
    import wandb

HEAT_MAPS = "heat_maps"
INIT_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 60.0
SEND_EVERY_S = 2.0
_REFUSALS = (
    r"\b40[13]\b",
    r"permission denied|unauthorized|forbidden|not logged in|no account of this key",
    r"api.key (is|may|must|not|has)",  # of a form that no key has; none at all
    r"invalid api.key",
)


class WandbRuns:
    """Keeps `RunWriter`.

    Args:
        folder: takes what W&B keeps locally, in a folder `wandb`.
        entity: empty: the account's own.
        sweep: id of the W&B sweep that the runs are part of; empty for none.
        mode: offline runs always begin at step 0.
    """

    def __init__(
        self, *, folder: Path, mode: Literal["online", "offline"], project: str, entity: str, sweep: str = ""
    ) -> None:
        self._folder, self._mode, self._project, self._entity = folder, mode, project, entity
        self._sweep = sweep

    def open(self, head: RunHead) -> WandbRun:
        """Opens a trial's run."""
        import wandb

        if self._mode == "offline":
            self.remove_offline(head.run_id)
        with _errors_of_wandb():
            run = wandb.init(
                project=self._project,
                entity=self._entity or None,
                id=head.run_id,
                name=head.name,
                group=head.group,
                job_type=head.job_type,
                tags=list(head.tags),
                config=dict(head.config),
                dir=str(self._folder),
                mode=self._mode,
                resume="allow",
                reinit="create_new",
                settings=self._settings(),
            )
            run.define_metric("epoch", hidden=True)
            run.define_metric("*", step_metric="epoch")
        return WandbRun(run, keeps_files=self._mode == "offline")

    def remove_offline(self, run_id: str) -> None:
        """Removes a trial's offline logs that were not sent: they are written anew, whole, from the results."""
        for folder in offline_folders(self._folder, run_id):
            if not is_synced(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Ends wandb-core."""
        import wandb

        wandb.teardown()

    def _settings(self) -> wandb.Settings:
        import wandb

        return wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_transaction_log_flush_interval=1.0,  # else a kill takes the last 15 s
            x_file_stream_transmit_interval=SEND_EVERY_S,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
            sweep_id=self._sweep or None,  # not WANDB_SWEEP_ID, with which W&B takes no id of ours
        )


class WandbRun:
    """Keeps `OpenRun`."""

    def __init__(self, run: wandb.Run, *, keeps_files: bool) -> None:
        self._run, self._keeps_files = run, keeps_files
        self._first = run.starting_step
        self.next_step = self._first

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Adds a row."""
        assert step >= self.next_step, f"step {step} after {self.next_step}"
        with _errors_of_wandb():
            self._run.log(dict(row), step=step)
        self.next_step = step + 1

    def log_media(self, media: Media, *, step: int) -> None:
        """Adds a row of pictures and tables, or uploads the files of one again."""
        import wandb
        from wandb.sdk.data_types.utils import val_to_json

        columns, rows = media.table
        found: dict[str, Any] = {
            PICTURES: [_image(picture) for picture in media.pictures.pictures],
            HEAT_MAPS: [_image(picture) for picture in media.pictures.heat_maps],
            PER_CLASS: wandb.Table(columns=list(columns), data=[list(row) for row in rows]) if rows else [],
        }
        with _errors_of_wandb():  # it also hands files over; their names follow from the step, so again is the same
            present = {key: val_to_json(self._run, key, one, namespace=step) for key, one in found.items() if one != []}
        if step >= self.next_step:
            self.log(present, step=step)

    def finish(self, end: RunEnd) -> None:
        """Says how the trial ended."""
        with _errors_of_wandb():
            self._run.summary.update(dict(end.summary))
            self._run.tags = end.tags
        self._close(end.exit_code)

    def interrupt(self) -> None:
        """As W&B shows jobs that a batch system took away."""
        with _errors_of_wandb():
            self._run.mark_preempting()
        self._close(1)

    def _close(self, exit_code: int) -> None:
        with _errors_of_wandb():
            self._run.finish(exit_code=exit_code)
        if not self._keeps_files:  # the results folder has all of it
            shutil.rmtree(Path(self._run.settings.sync_dir), ignore_errors=True)


def _image(picture: Picture) -> wandb.Image:
    import wandb

    if isinstance(picture.image, Path):
        return wandb.Image(str(picture.image), caption=picture.caption)
    labels = dict(enumerate(picture.classes))
    layers = {
        name: {"box_data": list(map(_box, boxes)), "class_labels": labels} for name, boxes in picture.boxes.items()
    }
    return wandb.Image(picture.image, caption=picture.caption, boxes=layers or None, file_type="jpg")


def _box(box: BoxOnPicture) -> dict[str, Any]:
    x1, y1, x2, y2 = box.corners
    found: dict[str, Any] = {
        "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
        "class_id": box.label,
        "box_caption": box.text,
    }
    return found | ({"scores": {"score": box.score}} if box.score is not None else {})


def account_entity() -> str:
    """Whose projects the account writes to by default; shows that the key is good.

    Raises:
        UnreachableError, RefusedError: see there.
    """
    import wandb

    with _errors_of_wandb():
        entity = wandb.Api(timeout=int(INIT_TIMEOUT_S)).default_entity
    if not entity:
        raise RefusedError("the server knows no account of this key")
    return entity


def create_sweep(config: Mapping[str, Any], *, project: str, entity: str) -> str:
    """Makes a W&B sweep and returns its id.

    Raises:
        UnreachableError, RefusedError: see there.
    """
    import wandb

    with _errors_of_wandb(), contextlib.redirect_stdout(io.StringIO()):  # it prints what we say ourselves
        return str(wandb.sweep(dict(config), entity=entity or None, project=project))


def history_lengths(*, project: str, entity: str, group: str) -> dict[str, int]:
    """How many rows the server has of each run of a group, by the run's id.

    Raises:
        UnreachableError, RefusedError: see there.
    """
    import wandb

    with _errors_of_wandb():
        runs = wandb.Api(timeout=30).runs(f"{entity}/{project}", filters={"group": group}, per_page=200)
        return {run.id: int(run._attrs.get("historyLineCount") or 0) for run in runs}


def offline_folders(folder: Path, run_id: str = "*") -> list[Path]:
    """What W&B keeps of runs that were written offline, in the order of their times. No links."""
    found = (folder / "wandb").glob(f"offline-run-*-{run_id}")
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def is_synced(folder: Path) -> bool:
    """Whether W&B holds an offline run for sent."""
    return any(folder.glob("*.wandb.synced"))


def mark_synced(folder: Path) -> None:
    """Has `wandb sync` leave an offline run alone, which was sent from the results."""
    for file in folder.glob("*.wandb"):
        with contextlib.suppress(OSError):
            file.with_name(f"{file.name}.synced").touch()


@contextlib.contextmanager
def _errors_of_wandb() -> Iterator[None]:
    """Whatever goes wrong in a call of wandb as one of two errors: it raises a dozen kinds, some of them private."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        text = _one_line(error)
        kind = RefusedError if is_refusal(text) else UnreachableError
        raise kind(text) from error


def is_refusal(text: str) -> bool:
    """Whether what wandb says means that the key is of no use, and not that the server does not answer.

    Its errors' classes do not tell: it says AuthenticationError when the server that would know the key is down.
    """
    without_urls = re.sub(r"https?://\S+", "", text.lower())
    return any(re.search(pattern, without_urls) for pattern in _REFUSALS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
