"""What is known of what trials take."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.footprint import MARGIN, SHAPE_KEYS, Footprints, Usage, shape_of
from wsol.config import ExperimentConfig

A, B = ("a",), ("b",)


def config(**changes: Any) -> dict[str, Any]:
    minimal = {"task": "wsddn", "data": {"root": "digits"}}
    values: dict[str, Any] = ExperimentConfig.model_validate(minimal).model_dump(mode="json")
    for key, value in changes.items():
        *sections, name = key.split("__")
        of = values
        for section in sections:
            of = of[section]
        assert name in of
        of[name] = value
    return values


class TestShape:
    def test_the_learning_rate_and_the_seed_cost_nothing(self) -> None:
        assert shape_of(config(train__lr=0.5, seed=3)) == shape_of(config())

    @pytest.mark.parametrize(
        "change",
        [
            {"model__backbone": "vgg16"},
            {"proposals__count": 17},
            {"train__scales_px": [100, 200]},
            {"train__batch_size": 7},
            {"evaluate__scales_px": [99]},
            {"train__optimizer": "adam"},
            {"data__workers": 5},
        ],
    )
    def test_what_takes_memory_or_time_does(self, change: dict[str, Any]) -> None:
        assert shape_of(config(**change)) != shape_of(config())

    def test_fewer_images_at_a_time_are_another(self) -> None:
        assert len({shape_of(config(), images) for images in (None, 1, 2)}) == 3

    def test_every_key_is_one_of_a_config(self) -> None:
        for key in SHAPE_KEYS:
            value: Any = config()
            for name in key.split("."):
                assert name in value, key
                value = value[name]

    def test_a_config_of_another_version_has_a_shape_too(self) -> None:
        assert len(shape_of({"task": "wsddn", "train": None})) == len(SHAPE_KEYS) + 1


class TestMemory:
    def test_nothing_is_known(self) -> None:
        known = Footprints()
        assert (known.device_bytes(A), known.host_bytes(A), known.too_little(A)) == (None, None, 0)

    def test_the_most_that_was_seen_with_a_margin(self) -> None:
        known = Footprints()
        for device in (100, 300, 200):
            known.note_usage(A, Usage(device_bytes=device, host_bytes=10 * device, step_s=1.0))
        assert (known.device_bytes(A), known.host_bytes(A)) == (330, 3300)
        assert MARGIN == 1.1
        assert known.device_bytes(B) is None

    def test_a_trial_on_the_cpu_tells_nothing_of_a_gpu(self) -> None:
        known = Footprints()
        known.note_usage(A, Usage(device_bytes=0, host_bytes=10, step_s=1.0))
        assert known.device_bytes(A) is None

    def test_what_was_too_little_is_exceeded(self) -> None:
        known = Footprints()
        known.note_too_little(A, 500)
        known.note_too_little(A, 400)
        assert (known.device_bytes(A), known.too_little(A)) == (None, 500), "how much is enough, it does not tell"
        known.note_usage(A, Usage(device_bytes=100, host_bytes=1, step_s=1.0))
        assert known.device_bytes(A) == 550


class TestTime:
    def test_nothing_is_known(self) -> None:
        known = Footprints()
        assert (known.epoch_s(A), known.mean_epoch_s(), known.is_new(A)) == (None, None, True)

    def test_epochs_count_until_a_trial_has_ended(self) -> None:
        known = Footprints()
        known.note_epoch(A, 1.0)
        known.note_epoch(A, 3.0)
        assert (known.epoch_s(A), known.is_new(A)) == (2.0, False)
        known.note_trial(A, epochs=10, duration_s=50.0)
        known.note_epoch(A, 99.0)
        assert known.epoch_s(A) == 5.0

    def test_the_median_of_trials(self) -> None:
        known = Footprints()
        for duration_s in (10.0, 1000.0, 30.0):
            known.note_trial(A, epochs=10, duration_s=duration_s)
        assert known.epoch_s(A) == 3.0

    def test_the_mean_is_over_shapes(self) -> None:
        known = Footprints()
        for _ in range(5):
            known.note_trial(A, epochs=1, duration_s=2.0)
        assert known.mean_epoch_s() == 2.0
        known.note_epoch(B, 4.0)
        assert known.mean_epoch_s() == 3.0, "an old mean is forgotten"

    def test_memory_alone_says_nothing_of_time(self) -> None:
        known = Footprints()
        known.note_usage(A, Usage(1, 1, 1.0))
        assert (known.epoch_s(A), known.mean_epoch_s()) == (None, None)

    def test_one_that_has_started_is_new_no_more(self) -> None:
        known = Footprints()
        known.note_start(A)
        assert (known.is_new(A), known.is_new(B)) == (False, True)
