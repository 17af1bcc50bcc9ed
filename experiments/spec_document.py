"""The keys of a spec file: typed, with defaults, as docs/sweep-spec.md and sweeps/schema.json show them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_GENERATED = 10_000
NEVER_SWEPT = frozenset({"seed", "code"})
"""Config keys that no search block may have: a spec has `seeds`, and `--code new` sets the other."""

Numbers = list[int | float]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[int | float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[int, Field(gt=0, le=1000)] | Annotated[list[Seed], Field(min_length=1)]
Values = Annotated[list[Any], Field(min_length=1)]
Rule = Annotated[dict[str, Any], Field(min_length=1)]


def _low_high(values: Numbers) -> Numbers:
    if len(values) != 2 or values[0] >= values[1]:
        raise ValueError("expected [low, high], the smaller first")
    return values


def _positive_low_high(values: Numbers) -> Numbers:
    _low_high(values)
    if values[0] <= 0:
        raise ValueError("expected [low, high] with low greater than 0, since the logarithm is sampled")
    return values


def _whole(values: Numbers) -> Numbers:
    if not all(isinstance(value, int) for value in values):
        raise ValueError("expected whole numbers")
    return values


def _first_last_count(values: Numbers) -> Numbers:
    if len(values) != 3 or not isinstance(values[2], int) or not 2 <= values[2] <= MAX_GENERATED:
        raise ValueError(f"expected [first, last, how many], 2 to {MAX_GENERATED:,} values")
    return values


def _positive_first_last_count(values: Numbers) -> Numbers:
    _first_last_count(values)
    if values[0] <= 0 or values[1] <= 0:
        raise ValueError("expected [first, last, how many] with both ends greater than 0")
    return values


def _first_last_step(values: Numbers) -> Numbers:
    if len(values) != 3 or values[2] == 0 or (values[1] - values[0]) * values[2] < 0:
        raise ValueError("expected [first, last, step] with a step that leads from first to last")
    if (values[1] - values[0]) / values[2] >= MAX_GENERATED:
        raise ValueError(f"expected at most {MAX_GENERATED:,} values")
    return values


Range = Annotated[Numbers, AfterValidator(_low_high)]
LogRange = Annotated[Numbers, AfterValidator(_positive_low_high)]
IntRange = Annotated[Numbers, AfterValidator(_low_high), AfterValidator(_whole)]
LogIntRange = Annotated[Numbers, AfterValidator(_positive_low_high), AfterValidator(_whole)]


class Section(BaseModel):
    """Strict, closed, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def _check_exactly_one(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(names)}; got {' and '.join(given) or 'none'}")


class GeneratedValues(Section):
    """Values of a key of `grid` or `zip` that are not written out, or that only some cells have."""

    values: Values | None = None
    """Written out, for use with `when`."""
    linspace: Annotated[Numbers, AfterValidator(_first_last_count)] | None = None
    """[first, last, how many]: evenly spaced, both ends included."""
    logspace: Annotated[Numbers, AfterValidator(_positive_first_last_count)] | None = None
    """[first, last, how many]: evenly spaced in the logarithm: [1e-5, 1e-3, 3] is 1e-5, 1e-4, 1e-3."""
    range: Annotated[Numbers, AfterValidator(_first_last_step)] | None = None
    """[first, last, step]: last is included where the steps reach it: [2, 6, 2] is 2, 4, 6."""
    when: Rule | None = None
    """Cells that this does not hold for do not have the key: there it is what `experiment` says."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        self._check_exactly_one("values", "linspace", "logspace", "range")
        return self


class SampledKey(Section):
    """Where the values of a key of `sample` come from: exactly one of the first five."""

    choice: Values | None = None
    """One of these, of whatever kind."""
    int: IntRange | None = None
    """[low, high]: a whole number, both included."""
    log_int: LogIntRange | None = None
    """[low, high]: a whole number, evenly spread in the logarithm."""
    float: Range | None = None
    """[low, high]: a number."""
    log_uniform: LogRange | None = None
    """[low, high]: a number, evenly spread in the logarithm."""
    step: PositiveNumber | None = None
    """With `int` and `float`: low, low + step, low + 2 step and so on, and nothing between."""
    when: Rule | None = None
    """Points that this does not hold for do not have the key: there it is what `experiment` says."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        self._check_exactly_one("choice", "int", "log_int", "float", "log_uniform")
        if self.step is not None and self.int is None and self.float is None:
            raise ValueError("expected step only with int or float")
        if self.int is not None and not isinstance(self.step, (type(None), type(self.int[0]))):
            raise ValueError("expected a whole number for step, with int")
        return self


Axis = Values | GeneratedValues


class SeedRounds(Section):
    """More seeds for those configurations that may be the best, until it is decided which one is."""

    start: Annotated[int, Field(ge=2, le=1000)] = 3
    """Seeds of every configuration: 3 means 0, 1, 2."""
    until_decided: Annotated[int, Field(ge=3, le=1000)]
    """At most so many for each."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.until_decided <= self.start:
            raise ValueError(f"expected until_decided greater than start, {self.start}")
        return self


class SearchBlock(Section):
    """Exactly one of `grid`, `zip` and `sample`, over dotted config keys, and what narrows it down."""

    grid: Annotated[dict[str, Axis], Field(min_length=1)] | None = None
    """Every combination of the values of its keys; the first key varies slowest."""
    zip: Annotated[dict[str, Axis], Field(min_length=1)] | None = None
    """The first values of all keys, then the second ones, and so on."""
    sample: Annotated[dict[str, SampledKey], Field(min_length=1)] | None = None
    """Points that a sampler chooses, one after the other, from the results so far."""
    exclude: list[Rule] = []
    """Cells and points that one of these rules holds for are left out; a sampler never asks for them."""
    only: list[Rule] = []
    """Where there are any: cells and points that none of these rules holds for are left out."""
    sampler: Literal["tpe", "random", "gp", "qmc", "cmaes"] | None = None
    """With `sample`, `tpe` by default: Optuna's sampler. All of them are seeded."""
    trials: PositiveInt | None = None
    """With `sample`, and needed there: how many different configurations, each with all `seeds`."""
    sampler_seed: Seed | None = None
    """With `sample`, 0 by default: another one chooses other points."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        self._check_exactly_one("grid", "zip", "sample")
        if self.sample is None:
            for name in ("sampler", "trials", "sampler_seed"):
                if getattr(self, name) is not None:
                    raise ValueError(f"expected {name} only with sample; a grid or zip runs every cell")
        elif self.trials is None:
            raise ValueError("expected trials with sample: how many configurations it may try")
        return self


class Objective(Section):
    """What the leaderboard is sorted by, samplers optimise and pruners look at."""

    metric: str
    """`<metric>/mean` or `<metric>/<class>`; by default the mean of the first metric of the task."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Which way is better."""


class AshaPruner(Section):
    """Asynchronous successive halving: at each rung only the best configurations so far go on."""

    min_epochs: PositiveInt = 1
    """The first rung; the next ones are at `reduction_factor` times the one before."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """At a rung one configuration of so many goes on."""


class MedianPruner(Section):
    """A configuration whose best value so far is worse than the median of the others at that epoch is stopped."""

    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Nothing is pruned before so many configurations are complete."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Nothing is pruned up to this epoch."""
    interval_epochs: PositiveInt = 1
    """Epochs between decisions."""


class PrunerChoice(Section):
    """Exactly one pruner. It looks at the objective after each evaluated epoch, as the mean over seeds."""

    asha: AshaPruner | None = None
    """`{}` for its defaults."""
    median: MedianPruner | None = None
    """`{}` for its defaults."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        self._check_exactly_one("asha", "median")
        return self


class Final(Section):
    """When the search is over: its best configuration trains once more and is measured on data the search never saw."""

    train: Annotated[str, Field(min_length=1)]
    """Split to train on, such as trainval."""
    eval: Annotated[str, Field(min_length=1)]
    """Split to measure on, once, after the last epoch. No trial of the search may use it."""
    seeds: Seeds = 3
    """How many fresh seeds, or a list of seeds that the search does not use."""


KeepCheckpoints = Literal["weights", "all", "none"]


class Resources(Section):
    """What may run at the same time, and what of it stays on the disk."""

    cpu_slots: Literal["auto"] | PositiveInt = "auto"
    """Trials at the same time on a machine without a GPU; auto: one a core, as far as memory goes (1.5 GiB each)."""
    trials_per_gpu: Literal["auto"] | PositiveInt = "auto"
    """Trials at the same time on a GPU; auto: as many as fit by measured memory."""
    keep_checkpoints: KeepCheckpoints = "weights"
    """Of a trial that ended. `weights`: of a complete one its model's weights, of another its newest checkpoint; `all`:
    the last two checkpoints; `none`: like `weights`, but of a complete one nothing. Cannot change a result."""


class Retry(Section):
    """When a trial's process dies."""

    max_attempts: PositiveInt = 3
    """Attempts of a trial in one run of the command. Those that were killed or found the disk full do not count."""


WandbMode = Literal["auto", "online", "offline", "disabled"]


class WandbTracking(Section):
    """The mirror of the sweep at Weights & Biases: see docs/wandb.md."""

    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] | None = None
    """Of W&B; default: what WANDB_PROJECT says, else `wsol`."""
    entity: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] | None = None
    """User or team; default: what WANDB_ENTITY says, else the account's own."""
    mode: WandbMode = "auto"
    """`auto`: online with an API key and a server that can be reached, else offline. `online`: keeps trying. `offline`:
    files for a later `wandb sync`. `disabled`: nothing."""


class Tracking(Section):
    """What mirrors the sweep's results elsewhere. Training does not notice it. Cannot change a result."""

    wandb: WandbTracking | None = None
    """Default: online where there is an API key and its server can be reached, else nothing. `{}` is mode auto."""


class SpecDocument(Section):
    """The keys of a spec file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Folder under results/; default: the file's name."""
    question: str = ""
    """What the sweep is to answer."""
    extends: str | None = None
    """Another spec, relative to this file: this one is merged over it, mappings key by key, lists as a whole."""
    experiment: dict[str, Any]
    """What every trial shares: see the config keys."""
    search: list[SearchBlock] = []
    """The sweep is the union of its blocks; none: one configuration."""
    seeds: Seeds | SeedRounds | None = None
    """Replicates of every configuration: a list of seeds, or how many (3 means 0, 1, 2); or `{start: 3, until_decided:
    10}`: more of them for configurations that may be the best."""
    objective: Objective | None = None
    """What is best."""
    pruner: PrunerChoice | None = None
    """Which trials are stopped early; none by default."""
    final: Final | None = None
    """The final stage; none by default."""
    resources: Resources = Resources()
    """What may run at the same time, and what of it stays on the disk."""
    retry: Retry = Retry()
    """When a trial's process dies."""
    tracking: Tracking = Tracking()
    """What mirrors the sweep's results elsewhere. Cannot change a result."""
