"""Trains one trial, from its config to its metrics. Stopped at any moment, the next call goes on to the same result.

Nothing random is carried from step to step: order, views, dropout masks are drawn from seeds that depend on the
trial's seed, the epoch and the step. A checkpoint after any step of the optimizer therefore holds weights, optimizer,
schedule and how far the training is, and no generator's state. On the CPU, with the same number of threads, the result
is the same to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from wsol import checkpoint
from wsol.build import Model, TrainingPlan, TrialData, build_data, build_model, build_optimizer, build_plan
from wsol.checkpoint import CheckpointError
from wsol.config import ExperimentConfig
from wsol.data.batch import ImageBatch
from wsol.data.voc import EvaluationSplit
from wsol.detections import Metrics, SplitDetections, measure
from wsol.determinism import reproducible, seed_torch
from wsol.device_memory import limited_memory
from wsol.evaluation import NonFinitePredictionError, detect
from wsol.optimization import kept_of_each_weight
from wsol.seeding import derive_seed

Item = TypeVar("Item")

Pass = Literal["rehearsal", "training", "evaluation"]
"""What may be gone through step by step."""


class Interrupted(Exception):
    """`Watch.should_stop` said so. Everything up to the last step is saved."""


class NonFiniteLossError(ArithmeticError):
    """Training has diverged: a loss, or a prediction between two losses, is no finite number."""


@dataclass(frozen=True)
class EpochRecord:
    """What there is to say of an epoch.

    Attributes:
        epoch: from 1.
        loss: mean over the training images, each with the weights of its step; sum of `losses`.
        losses: the same for each of the model's losses.
        lr: learning rate at the start of the epoch, of layers without a factor of their own.
        metrics: of the evaluation split with the weights at the end of the epoch; empty where it was not evaluated.
        duration_s: training and evaluation, wall clock.
    """

    epoch: int
    loss: float
    losses: dict[str, float]
    lr: float
    metrics: Metrics
    duration_s: float


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a trained model does on the evaluation split.

    Attributes:
        metrics: of the last epoch.
        detections: what they were measured on.
        split: the evaluation split.
    """

    metrics: Metrics
    detections: SplitDetections
    split: EvaluationSplit


@dataclass(frozen=True)
class Watch:
    """How the one who called `fit` looks on. Each should be cheap.

    Attributes:
        should_stop: asked before each step of training and evaluation.
        on_pass_end: called after the last step of each pass, with what it was: what follows has no steps.
        on_trained: called after each step of the optimizer with the seconds that it took, loading included.
    """

    should_stop: Callable[[], bool]
    on_pass_end: Callable[[Pass], None] = lambda over: None
    on_trained: Callable[[float], None] = lambda seconds: None

    def each(self, steps: Iterable[Item], of: Pass) -> Iterator[Item]:
        """Steps of a pass.

        Raises:
            Interrupted: instead of the next one, once `should_stop` says so.
        """
        for step in steps:
            if self.should_stop():
                raise Interrupted("stopped on request; all steps are saved")
            yield step
        self.on_pass_end(of)


@dataclass(frozen=True, eq=False)
class _Run:
    """What is alive during a call of `fit`."""

    plan: TrainingPlan
    data: TrialData
    model: Model
    optimizer: Optimizer
    schedule: LambdaLR
    device: torch.device
    watch: Watch
    images_at_a_time: int | None


@dataclass(frozen=True)
class _Progress:
    """How far a training is.

    Attributes:
        epoch: the one that is being trained or comes next, from 1.
        batches: of that epoch that are done.
        images: in these batches.
        sums: of the model's losses over these images; tensors until they are saved.
        seconds: of wall clock that the epoch has taken so far.
    """

    epoch: int
    batches: int = 0
    images: int = 0
    sums: Mapping[str, Tensor | float] = field(default_factory=dict)
    seconds: float = 0.0


def fit(
    config: ExperimentConfig,
    *,
    checkpoint_dir: Path,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None],
    watch: Watch,
    on_resume: Callable[[int], None] = lambda epochs: None,
    threads: int | None = None,
    images_at_a_time: int | None = None,
    memory_bytes: int | None = None,
    rehearse: int = 0,
) -> FitResult:
    """Trains and evaluates a trial, going on from the newest checkpoint in `checkpoint_dir`.

    An epoch is: train, evaluate where it is due, `on_epoch`, save a checkpoint where one is due. Whoever keeps records
    thus has that of an epoch before the epoch counts as done, and after a stop in between gets it again: `on_resume`
    says which records count. Checkpoints are saved as `checkpoint.every` says, after the last epoch, and when
    `watch.should_stop` says so. Torch's global state (generators, determinism) is as before when this returns or
    raises.

    Args:
        config: of the trial.
        checkpoint_dir: of this trial alone; made where it is missing.
        device: where the model lives.
        on_epoch: called with each epoch's record.
        watch: looks on, and may end it.
        on_resume: called once, before any training, with the number of epochs that are done: 0 for a new start.
            Records of later epochs are void.
        threads: of torch and of each library with a pool of its own, within this call; None: as many as they have.
            (Setting them before the call starts threads, and a process with threads cannot fork its loader processes.)
        images_at_a_time: at most so many go through the model at once, for a device with too little memory. The step is
            that of the whole batch: gradients add up. Rounding, dropout's masks, a localizer's padding to one size, and
            batch normalisation where it trains are of the parts. None: as many as the config says.
        memory_bytes: of the GPU, at most, see `limited_memory`; None: as much as there is.
        rehearse: so many images that should take most memory are evaluated before the first step, for what it takes
            alone: nothing of it is kept, and the result is the same to the bit. 0: none.

    Raises:
        Interrupted: when `watch.should_stop` said so; calling again goes on.
        NonFiniteLossError: names epoch, step, loss and images.
        CheckpointError: for a checkpoint of another config or version.
        DataError, WeightsError: for faults in the data and the initial weights.
    """
    plan = build_plan(config)
    saved = checkpoint.load_latest(checkpoint_dir)
    if saved is not None:
        _check_identity(saved, plan, checkpoint_dir)
    # first: loader processes start before other threads
    data = build_data(config, pin_memory=device.type == "cuda", images_at_a_time=images_at_a_time)
    with limited_memory(device, memory_bytes), reproducible(device, threads=threads):
        model = build_model(config, num_classes=len(data.classes)).to(device)
        optimizer, schedule = build_optimizer(config, model, batches_per_epoch=data.batches.batches_per_epoch)
        run = _Run(plan, data, model, optimizer, schedule, device, watch, images_at_a_time)
        start = _Progress(epoch=1) if saved is None else _restore(run, saved, checkpoint_dir)
        on_resume(start.epoch - 1)
        if rehearse and start.epoch <= plan.epochs:
            _rehearse(run, rehearse)
        return _train(run, checkpoint_dir, start=start, on_epoch=on_epoch)


def _train(run: _Run, checkpoint_dir: Path, *, start: _Progress, on_epoch: Callable[[EpochRecord], None]) -> FitResult:
    result, progress = None, start
    checkpoints = _Checkpoints(run, checkpoint_dir, start)
    while progress.epoch <= run.plan.epochs:
        lr = _lr_at_start(run, progress)
        try:
            for trained in _train_epoch(run, progress):
                progress = trained
                checkpoints.after_step(progress)
            began = time.perf_counter()
            due = progress.epoch % run.plan.evaluate_every == 0 or progress.epoch == run.plan.epochs
            result = _evaluate(run, progress.epoch) if due else None
        except Interrupted:
            checkpoints.save(progress)
            raise
        on_epoch(_record(progress, lr=lr, result=result, duration_s=progress.seconds + time.perf_counter() - began))
        progress = _Progress(epoch=progress.epoch + 1)
        checkpoints.after_epoch(progress)
    return result or _evaluate(run, run.plan.epochs)  # nothing was left to train: stopped after the last checkpoint


def _lr_at_start(run: _Run, progress: _Progress) -> float:
    """The learning rate with which the epoch of `progress` began."""
    steps = math.ceil(progress.batches / run.plan.accumulate)
    return float(run.plan.lr * run.schedule.lr_lambdas[0](run.schedule.last_epoch - steps))


def _record(progress: _Progress, *, lr: float, result: FitResult | None, duration_s: float) -> EpochRecord:
    losses = {name: float(total) / progress.images for name, total in progress.sums.items()}
    return EpochRecord(
        epoch=progress.epoch,
        loss=sum(losses.values()),
        losses=losses,
        lr=lr,
        metrics=result.metrics if result else {},
        duration_s=duration_s,
    )


def _train_epoch(run: _Run, start: _Progress) -> Iterator[_Progress]:
    """Trains the rest of an epoch; yields after each step of the optimizer."""
    run.model.train()
    progress = start
    began = step_began = time.perf_counter()
    batches = run.watch.each(run.data.batches.training_epoch(start.epoch, after=start.batches), "training")
    while group := list(islice(batches, run.plan.accumulate)):
        progress = _step(run, progress, group)
        run.watch.on_trained(time.perf_counter() - step_began)
        yield replace(progress, seconds=start.seconds + time.perf_counter() - began)
        step_began = time.perf_counter()  # what was done with the step, such as a checkpoint, is no part of the next


def _step(run: _Run, progress: _Progress, group: Sequence[ImageBatch]) -> _Progress:
    """One step of the optimizer on the mean loss over the images of some batches."""
    images = sum(len(batch) for batch in group)
    sums = dict(progress.sums)
    run.optimizer.zero_grad()
    for number, batch in enumerate(group, start=progress.batches + 1):
        seed_torch(derive_seed(run.plan.seed, "training", progress.epoch, number), run.device)
        where = f"epoch {progress.epoch}, step {number}"
        for part in batch.split(run.images_at_a_time):
            for name, loss in _gradients(run, part, share=len(part) / images, where=where).items():
                sums[name] = sums.get(name, 0.0) + loss * len(part)
    run.optimizer.step()
    run.schedule.step()
    return replace(progress, batches=progress.batches + len(group), images=progress.images + images, sums=sums)


class _Checkpoints:
    """Saves the state of a training when it is due.

    Args:
        start: where the training goes on: nothing has to be saved there.
    """

    def __init__(self, run: _Run, folder: Path, start: _Progress) -> None:
        self._run, self._folder = run, folder
        self._last = start
        self._saved_at = time.monotonic()

    def after_step(self, progress: _Progress) -> None:
        """Saves when the minutes are over."""
        minutes = self._run.plan.checkpoint_every_minutes
        if minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes:
            self.save(progress)

    def after_epoch(self, progress: _Progress) -> None:
        """Saves when the epochs or the minutes are over, and after the last epoch.

        Args:
            progress: at the start of the next epoch.
        """
        done, every = progress.epoch - 1, self._run.plan.checkpoint_every_epochs
        if done == self._run.plan.epochs or (every is not None and done % every == 0):
            self.save(progress)
        else:
            self.after_step(progress)

    def save(self, progress: _Progress) -> None:
        """Saves, unless it was done at this very point."""
        if progress is not self._last:
            steps = self._run.schedule.last_epoch
            # even in the midst of an epoch, its last step included, and odd once its record is out
            checkpoint.save(self._folder, _state(self._run, progress), number=2 * steps + (progress.batches == 0))
        self._last, self._saved_at = progress, time.monotonic()


def _gradients(run: _Run, batch: ImageBatch, *, share: float, where: str) -> dict[str, Tensor]:
    """Adds the gradients of a batch, times `share`. Returns the losses, float64 scalars still on the device.

    Raises:
        NonFiniteLossError: so that the weights are not touched.
    """
    losses = run.model.training_losses(batch.to(run.device))
    total = torch.stack(list(losses.values())).sum()
    (total * share).backward()  # type: ignore[no-untyped-call]
    value = total.item()  # the step's only wait for the GPU, when all of its work but the update is queued
    if not math.isfinite(value):
        raise NonFiniteLossError(f"got a loss of {value} in {where}, images {', '.join(batch.image_ids)}")
    return {name: loss.detach().double() for name, loss in losses.items()}


def _rehearse(run: _Run, images: int) -> None:
    """Evaluates images that should take most memory, in batches as full as in an evaluation.

    Beside what every evaluation finds in memory once a step was made: gradients, and the optimizer's state.
    """
    weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
    copies = 1 if run.optimizer.state else 1 + kept_of_each_weight(run.optimizer)
    left_by_steps = [torch.ones_like(weight) for weight in weights for _ in range(copies)]
    indices = run.data.batches.demanding_images(images)
    with suppress(NonFinitePredictionError):  # training, which follows, says more of it
        detect(
            run.model,
            run.watch.each(run.data.batches.evaluation_pass(indices), "rehearsal"),
            classes=run.data.classes,
            post_processing=run.plan.post_processing,
            device=run.device,
            ground_truth=[run.data.evaluation.ground_truth[index] for index in indices],
        )
    del left_by_steps


def _evaluate(run: _Run, epoch: int) -> FitResult:
    try:
        found = detect(
            run.model,
            run.watch.each(run.data.batches.evaluation_pass(), "evaluation"),
            classes=run.data.classes,
            post_processing=run.plan.post_processing,
            device=run.device,
            ground_truth=run.data.evaluation.ground_truth,
        )
    except NonFinitePredictionError as error:
        raise NonFiniteLossError(f"{error}, in the evaluation after epoch {epoch}") from error
    split = run.data.evaluation
    return FitResult(metrics=measure(found, split, metrics=run.plan.metrics), detections=found, split=split)


def _state(run: _Run, progress: _Progress) -> dict[str, Any]:
    return {
        "progress": asdict(replace(progress, sums={name: float(total) for name, total in progress.sums.items()})),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "identity": run.plan.identity,
    }


def _restore(run: _Run, saved: dict[str, Any], checkpoint_dir: Path) -> _Progress:
    """Weights alone are of a trial that is trained to its end and lost its result: it is only evaluated."""
    try:
        run.model.load_state_dict(saved["model"])
        if checkpoint.is_weights_alone(saved):
            return _Progress(epoch=run.plan.epochs + 1)
        run.optimizer.load_state_dict(saved["optimizer"])
        run.schedule.load_state_dict(saved["schedule"])
        return _Progress(**saved["progress"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"got a checkpoint in {checkpoint_dir} that this version cannot use: {error}") from error


def _check_identity(saved: dict[str, Any], plan: TrainingPlan, checkpoint_dir: Path) -> None:
    before, now = _flat(saved.get("identity", {})), _flat(plan.identity)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise CheckpointError(
                f"got a checkpoint with {key}={before.get(key)!r} in {checkpoint_dir}; expected {now.get(key)!r}, as in"
                " the trial's config"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
