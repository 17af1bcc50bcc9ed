"""Trains one trial, from its config to its metrics. Stopped at any moment, the next call goes on to the same result.

Nothing random is carried from step to step: order, views, dropout masks are drawn from seeds that depend on the
trial's seed, the epoch and the step. A checkpoint after each epoch therefore holds weights, optimizer and schedule,
and no generator's state. On the CPU, with the same number of threads, the result is the same to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils import deterministic as determinism

from wsol import checkpoint
from wsol.build import Model, TrainingPlan, TrialData, build_data, build_model, build_optimizer, build_plan
from wsol.checkpoint import CheckpointError
from wsol.config import ExperimentConfig
from wsol.data.batch import ImageBatch
from wsol.data.voc import EvaluationSplit
from wsol.detections import Metrics, SplitDetections, measure
from wsol.evaluation import NonFinitePredictionError, detect
from wsol.seeding import derive_seed

Item = TypeVar("Item")


class Interrupted(Exception):
    """`should_stop` said so. Everything up to the last finished epoch is saved."""


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


@dataclass(frozen=True, eq=False)
class _Run:
    """What is alive during a call of `fit`."""

    plan: TrainingPlan
    data: TrialData
    model: Model
    optimizer: Optimizer
    schedule: LambdaLR
    device: torch.device
    should_stop: Callable[[], bool]


def fit(
    config: ExperimentConfig,
    *,
    checkpoint_dir: Path,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None],
    should_stop: Callable[[], bool],
    on_resume: Callable[[int], None] = lambda epochs: None,
    threads: int | None = None,
) -> FitResult:
    """Trains and evaluates a trial, going on from the newest checkpoint in `checkpoint_dir`.

    An epoch is: train, evaluate where it is due, `on_epoch`, save the checkpoint. Whoever keeps records thus has that
    of an epoch before the epoch counts as done, and after a stop in between gets it again: `on_resume` says which
    records count. Torch's global state (generators, determinism) is as before when this returns or raises.

    Args:
        config: of the trial.
        checkpoint_dir: of this trial alone; made where it is missing.
        device: where the model lives.
        on_epoch: called with each epoch's record.
        should_stop: asked before each step of training and evaluation. It should be cheap.
        on_resume: called once, before any training, with the number of epochs that are done: 0 for a new start.
            Records of later epochs are void.
        threads: of torch, within this call; None: as many as it has. (Setting them before the call starts threads,
            and a process with threads cannot fork its loader processes.)

    Raises:
        Interrupted: when `should_stop` said so; calling again goes on.
        NonFiniteLossError: names epoch, step, loss and images.
        CheckpointError: for a checkpoint of another config or version.
        DataError, WeightsError: for faults in the data and the initial weights.
    """
    plan = build_plan(config)
    saved = checkpoint.load_latest(checkpoint_dir)
    if saved is not None:
        _check_identity(saved, plan, checkpoint_dir)
    data = build_data(config, pin_memory=device.type == "cuda")  # first: loader processes start before other threads
    with _reproducible(device, threads=threads):
        model = build_model(config, num_classes=len(data.classes)).to(device)
        optimizer, schedule = build_optimizer(config, model, batches_per_epoch=data.batches.batches_per_epoch)
        run = _Run(plan, data, model, optimizer, schedule, device, should_stop)
        done = 0 if saved is None else _restore(run, saved, checkpoint_dir)
        on_resume(done)
        return _train(run, checkpoint_dir, first_epoch=done + 1, on_epoch=on_epoch)


def _train(run: _Run, checkpoint_dir: Path, *, first_epoch: int, on_epoch: Callable[[EpochRecord], None]) -> FitResult:
    result = None
    for epoch in range(first_epoch, run.plan.epochs + 1):
        started = time.perf_counter()
        lr = run.plan.lr * run.schedule.lr_lambdas[0](run.schedule.last_epoch)
        losses = _train_epoch(run, epoch)
        due = epoch % run.plan.evaluate_every == 0 or epoch == run.plan.epochs
        result = _evaluate(run, epoch) if due else None
        record = EpochRecord(
            epoch=epoch,
            loss=sum(losses.values()),
            losses=losses,
            lr=lr,
            metrics=result.metrics if result else {},
            duration_s=time.perf_counter() - started,
        )
        on_epoch(record)
        checkpoint.save(checkpoint_dir, _state(run, epoch), number=epoch)
    return result or _evaluate(run, run.plan.epochs)  # nothing was left to train: stopped after the last checkpoint


def _train_epoch(run: _Run, epoch: int) -> dict[str, float]:
    """Means of the model's losses over the images."""
    run.model.train()
    sums: dict[str, Tensor] = {}
    images = micro_step = 0
    batches = _until_stopped(run.data.batches.training_epoch(epoch), run.should_stop)
    while group := list(islice(batches, run.plan.accumulate)):
        in_step = sum(len(batch) for batch in group)
        run.optimizer.zero_grad()
        for batch in group:
            micro_step += 1
            _seed_torch(derive_seed(run.plan.seed, "training", epoch, micro_step), run.device)
            where = f"epoch {epoch}, step {micro_step}"
            losses = _gradients(run, batch, share=len(batch) / in_step, where=where)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss * len(batch)
        run.optimizer.step()
        run.schedule.step()
        images += in_step
    return {name: float(total) / images for name, total in sums.items()}


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


def _evaluate(run: _Run, epoch: int) -> FitResult:
    try:
        found = detect(
            run.model,
            _until_stopped(run.data.batches.evaluation_pass(), run.should_stop),
            classes=run.data.classes,
            post_processing=run.plan.post_processing,
            device=run.device,
            ground_truth=run.data.evaluation.ground_truth,
        )
    except NonFinitePredictionError as error:
        raise NonFiniteLossError(f"{error}, in the evaluation after epoch {epoch}") from error
    split = run.data.evaluation
    return FitResult(metrics=measure(found, split, metrics=run.plan.metrics), detections=found, split=split)


def _until_stopped(items: Iterable[Item], should_stop: Callable[[], bool]) -> Iterator[Item]:
    """Raises `Interrupted` instead of giving the next item, once `should_stop` says so."""
    for item in items:
        if should_stop():
            raise Interrupted("stopped on request; finished epochs are saved")
        yield item


def _state(run: _Run, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "identity": run.plan.identity,
    }


def _restore(run: _Run, saved: dict[str, Any], checkpoint_dir: Path) -> int:
    """The number of epochs that are done."""
    try:
        run.model.load_state_dict(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.schedule.load_state_dict(saved["schedule"])
        return int(saved["epoch"])
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


@contextmanager
def _reproducible(device: torch.device, *, threads: int | None) -> Iterator[None]:
    """Deterministic algorithms and so many threads; global generators and all else come back as they were."""
    on_cuda = device.type == "cuda"
    with ExitStack() as stack:
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []))
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        stack.enter_context(_deterministic_algorithms(warn_only=on_cuda))  # CUDA has none for the RoI operations
        yield


@contextmanager
def _deterministic_algorithms(*, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    fill = determinism.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property of the module
    try:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
        torch.backends.cudnn.benchmark = False
        determinism.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        torch.backends.cudnn.benchmark = benchmark
        determinism.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the global generators that dropout draws from: that of the CPU, and of the GPU in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
