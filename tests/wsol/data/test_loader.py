"""Batches: what is drawn, in which order, and that it does not matter by which process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsol.data import loader
from wsol.data.batch import ImageBatch
from wsol.data.images import DataError, ImageRecord
from wsol.data.loader import Augmentation, BatchLoader, ImageData, SelectedProposals, TwoSplits, worker_context
from wsol.data.proposals import Proposals
from wsol.data.transforms import View

WIDTH, HEIGHT = 20, 10


def _record(folder: Path, name: str, *, bright: tuple[int, int, int, int] = (0, 0, WIDTH, HEIGHT)) -> ImageRecord:
    """A dark image whose pixels in the box `bright` are white."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    x1, y1, x2, y2 = bright
    pixels[y1:y2, x1:x2] = 255
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return ImageRecord(id=name, path=path)


@dataclass(frozen=True)
class FixedProposals:
    """The same boxes for every image. A class, so that it pickles."""

    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...] | None = None

    def __call__(self, record: ImageRecord) -> Proposals:
        scores = None if self.scores is None else np.array(self.scores, dtype=np.float32)
        return Proposals(np.array(self.boxes, dtype=np.float32).reshape(-1, 4), scores)


def _data(images: Iterable[ImageRecord], propose: loader.ProposeBoxes | None = None) -> ImageData:
    records = tuple(images)
    labels = np.where(np.arange(len(records))[:, None] % 3 == np.arange(3), 1, -1).astype(np.int8)
    return ImageData(images=records, labels=labels, propose=propose, resize="longer", max_side_px=2000)


def _batches(
    training: ImageData,
    evaluation: ImageData,
    *,
    workers: int = 0,
    batch_size: int = 2,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    views: Sequence[View] = (View(scale_px=20),),
) -> BatchLoader:
    return BatchLoader(
        TwoSplits(training=training, evaluation=evaluation),
        augmentation=augmentation or Augmentation(scales_px=(16, 24, 32), flip=True, rescale=None, seed=seed),
        evaluation_views=views,
        batch_size=batch_size,
        evaluation_batch_size=3,
        seed=seed,
        workers=workers,
        pin_memory=False,
    )


def _ids(batches: Iterable[ImageBatch]) -> list[str]:
    return [image_id for batch in batches for image_id in batch.image_ids]


def _assert_equal(first: ImageBatch, second: ImageBatch) -> None:
    assert (first.image_ids, first.scales) == (second.image_ids, second.scales)
    for a, b in zip(first.images + first.proposals, second.images + second.proposals, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.labels, second.labels)


@pytest.fixture
def seven(tmp_path: Path) -> ImageData:
    boxes = FixedProposals(((1, 2, 5, 6), (0, 0, 20, 10)), scores=(0.9, 0.5))
    return _data((_record(tmp_path, f"image{i}", bright=(i, 0, i + 3, 5)) for i in range(7)), boxes)


def test_an_epoch_shows_every_image_once(seven: ImageData) -> None:
    batches = list(_batches(seven, seven).training_epoch(1))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert sorted(_ids(batches)) == [record.id for record in seven.images]


def test_the_order_depends_on_seed_and_epoch_alone(seven: ImageData) -> None:
    batches = _batches(seven, seven)
    orders = [_ids(batches.training_epoch(epoch)) for epoch in (1, 2, 3, 1)]
    assert orders[0] == orders[3]  # asked again, after others
    assert len({tuple(order) for order in orders}) == 3
    assert _ids(_batches(seven, seven, seed=1).training_epoch(1)) != orders[0]


def _augmentation(*, seed: int = 0, rescale: tuple[float, float] | None = None) -> Augmentation:
    return Augmentation(scales_px=(16, 24, 32), flip=True, rescale=rescale, seed=seed)


def test_the_views_of_an_image_change_from_epoch_to_epoch() -> None:
    def views(augmentation: Augmentation, index: int = 0) -> list[View]:
        return [augmentation.view(epoch=epoch, index=index, batch=0) for epoch in range(40)]

    first = views(_augmentation())
    assert len(set(first)) == 6
    assert first != views(_augmentation(), index=1)
    assert first != views(_augmentation(seed=1))


def test_a_batch_is_rescaled_by_one_factor() -> None:
    """And by another one in the next batch; without a factor the views are as they were."""
    plain, rescaled = _augmentation(), _augmentation(rescale=(0.7, 1.4))
    factors = []
    for batch in range(60):
        pairs = [
            (plain.view(epoch=1, index=index, batch=batch), rescaled.view(epoch=1, index=index, batch=batch))
            for index in range(4)
        ]
        assert all(one.flip == other.flip for one, other in pairs)
        ratios = [other.scale_px / one.scale_px for one, other in pairs]
        assert max(ratios) - min(ratios) < 2 * 0.5 / 16  # whole pixels
        factors.append(sum(ratios) / 4)
    assert 0.66 < min(factors) < 0.8
    assert 1.3 < max(factors) < 1.44


def test_rescaled_batches_come_from_the_loader(seven: ImageData) -> None:
    batches = _batches(seven, seven, augmentation=_augmentation(rescale=(2.0, 2.0)))
    widths = {image.shape[2] for batch in batches.training_epoch(1) for image in batch.images}
    assert widths <= {32, 48, 64}


def test_evaluation_shows_the_split_in_order_at_one_scale_unmirrored(seven: ImageData) -> None:
    passes = list(_batches(seven, seven).evaluation_pass())
    assert [[(view, len(batch)) for view, batch in seen] for seen in passes] == [
        [(View(scale_px=20), count)] for count in (3, 3, 1)
    ]
    batches = [batch for seen in passes for _, batch in seen]
    assert _ids(batches) == [record.id for record in seven.images]
    for index, image in enumerate(image for batch in batches for image in batch.images):
        assert image.shape == (3, HEIGHT, WIDTH)  # 20 px: as the files are
        assert image[0, 0].nonzero().flatten().tolist() == [index, index + 1, index + 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_view_shows_the_same_images(seven: ImageData, workers: int) -> None:
    views = (View(scale_px=20), View(scale_px=40), View(scale_px=20, flip=True))
    passes = list(_batches(seven, seven, views=views, workers=workers).evaluation_pass())
    assert [len(seen) for seen in passes] == [3, 3, 3]
    for seen in passes:
        assert tuple(view for view, _ in seen) == views
        plain, large, mirrored = (batch for _, batch in seen)
        assert plain.image_ids == large.image_ids == mirrored.image_ids
        assert large.images[0].shape == (3, 2 * HEIGHT, 2 * WIDTH)
        assert torch.equal(mirrored.images[0].flip(-1), plain.images[0])
    assert [image_id for seen in passes for image_id in seen[0][1].image_ids] == [record.id for record in seven.images]


def test_a_sample_has_labels_scores_and_scale(seven: ImageData) -> None:
    sample = seven.sample(4, View(scale_px=40))
    assert sample.labels.tolist() == [-1, 1, -1]
    assert sample.labels.dtype == torch.float32
    assert sample.proposals.tolist() == [[2, 4, 10, 12], [0, 0, 40, 20]]
    assert sample.proposal_scores is not None
    assert sample.proposal_scores.tolist() == pytest.approx([0.9, 0.5])
    assert sample.scale == (2.0, 2.0)
    assert sample.image_id == "image4"


@pytest.mark.parametrize("flip", [False, True])
def test_proposals_stay_on_their_object(tmp_path: Path, flip: bool) -> None:
    box = (2, 3, 7, 9)
    data = _data([_record(tmp_path, "a", bright=box)], FixedProposals((box,)))
    sample = data.sample(0, View(scale_px=200, flip=flip))
    x1, y1, x2, y2 = sample.proposals[0].int().tolist()
    inside = sample.image[:, y1 + 10 : y2 - 10, x1 + 10 : x2 - 10]  # 10 px for the blurred border
    assert inside.min() > 0.99
    assert sample.image.sum().item() == pytest.approx(3 * (x2 - x1) * (y2 - y1), rel=0.01)


def test_an_image_without_proposals(tmp_path: Path) -> None:
    records = [_record(tmp_path, "a")]
    for propose in (None, FixedProposals(())):
        sample = _data(records, propose).sample(0, View(scale_px=20, flip=True))
        assert sample.proposals.shape == (0, 4)
        assert sample.proposals.dtype == torch.float32
        assert sample.proposal_scores is None


def test_selected_proposals_depend_on_seed_and_image_id(tmp_path: Path) -> None:
    every = FixedProposals(tuple((x, 0.0, x + 5.0, 5.0) for x in range(100)))
    first, second = _record(tmp_path, "a"), _record(tmp_path, "b")
    selected = SelectedProposals(propose=every, count=10, min_size_px=0, seed=0)
    assert len(selected(first).boxes) == 10
    assert np.array_equal(selected(first).boxes, selected(first).boxes)  # in every epoch
    assert not np.array_equal(selected(first).boxes, selected(second).boxes)
    other = SelectedProposals(propose=every, count=10, min_size_px=0, seed=1)
    assert not np.array_equal(selected(first).boxes, other(first).boxes)
    assert len(SelectedProposals(propose=every, count=None, min_size_px=5.1, seed=0)(first).boxes) == 0


def test_scores_are_asked_for_where_they_are_needed(tmp_path: Path) -> None:
    record = _record(tmp_path, "a")
    with pytest.raises(DataError, match="got proposals without scores for image a; expected scores"):
        SelectedProposals(propose=FixedProposals(((0, 0, 9, 9),)), count=1, min_size_px=0, seed=0, needs_scores=True)(
            record
        )
    with_scores = FixedProposals(((0, 0, 9, 9),), scores=(0.5,))
    kept = SelectedProposals(propose=with_scores, count=1, min_size_px=0, seed=0, needs_scores=True)(record)
    assert kept.scores is not None


def test_worker_processes_change_nothing(seven: ImageData) -> None:
    alone, together = _batches(seven, seven), _batches(seven, seven, workers=2)
    for epoch in (2, 1):  # also not when another epoch was seen before
        for first, second in zip(alone.training_epoch(epoch), together.training_epoch(epoch), strict=True):
            _assert_equal(first, second)
        for one, other in zip(alone.evaluation_pass(), together.evaluation_pass(), strict=True):
            for (_, first), (_, second) in zip(one, other, strict=True):
                _assert_equal(first, second)
    next(together.training_epoch(1))  # a pass that is given up
    for first, second in zip(alone.training_epoch(3), together.training_epoch(3), strict=True):
        _assert_equal(first, second)
    (seven.images[3].path).unlink()
    with pytest.raises(DataError, match=r"image3\.png"):  # in the other process
        list(together.evaluation_pass())


def test_the_global_generators_are_left_alone(seven: ImageData) -> None:
    before = torch.get_rng_state()
    for _ in range(2):
        list(_batches(seven, seven).training_epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("threads", "method"), [(1, "fork"), (2, "forkserver"), (None, "forkserver")])
def test_a_process_with_threads_is_not_forked(
    threads: int | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_thread_count", lambda: threads)
    assert worker_context().get_start_method() == method


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes of others, which needs Linux")
def test_worker_processes_die_with_a_killed_parent(tmp_path: Path) -> None:
    _record(tmp_path, "a")
    script = textwrap.dedent("""
        import multiprocessing, sys, threading
        from pathlib import Path
        import numpy as np
        from wsol.data.images import ImageRecord
        from wsol.data.loader import Augmentation, BatchLoader, ImageData, TwoSplits, worker_context
        from wsol.data.transforms import View

        data = ImageData(images=(ImageRecord(id="a", path=Path(sys.argv[1])),), labels=np.ones((1, 1), np.int8),
                         propose=None, resize="longer", max_side_px=9)
        two = TwoSplits(training=data, evaluation=data)
        shown = dict(augmentation=Augmentation(scales_px=(8,), flip=True, rescale=None, seed=0),
                     evaluation_views=[View(scale_px=8)])

        def start():
            methods.append(worker_context().get_start_method())
            batches = BatchLoader(two, **shown, batch_size=1, evaluation_batch_size=1, seed=0, workers=2,
                                  pin_memory=False)
            assert len(list(batches.evaluation_pass())) == 1
            return batches

        methods = []
        kept = [start(), start()]  # the second one while threads of the first one run
        print(*methods, *(process.pid for process in multiprocessing.active_children()), flush=True)
        sys.stdin.read()
    """)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        first, second, *pids = parent.stdout.readline().split()
        assert (first, second) == ("fork", "forkserver")
        assert len(pids) == 4
        watched = select.poll()
        descriptors = [os.pidfd_open(int(pid)) for pid in pids]
        for descriptor in descriptors:
            watched.register(descriptor, select.POLLIN)
        assert watched.poll(0) == []  # alive
        parent.send_signal(signal.SIGKILL)
        for descriptor in descriptors:
            one = select.poll()
            one.register(descriptor, select.POLLIN)
            assert one.poll(10_000), "a loader process outlives its parent"
            os.close(descriptor)


class TestDemandingImages:
    """Those of a split that should take most memory."""

    @staticmethod
    def data(folder: Path, sizes: Sequence[tuple[int, int]], counts: Sequence[int] | None = None) -> ImageData:
        records = []
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(folder / f"{number}.png")
            records.append(ImageRecord(id=str(number), path=folder / f"{number}.png"))
        propose: loader.ProposeBoxes | None = None
        if counts is not None:
            made = [FixedProposals(((0.0, 0.0, 1.0, 1.0),) * count) for count in counts]

            def propose(record: ImageRecord) -> Proposals:
                return made[int(record.id)](record)

        data = _data(records, propose)
        return replace(data, resize="shorter")

    def test_most_proposals_most_pixels_widest_highest_in_turn(self, tmp_path: Path) -> None:
        sizes = [(20, 10), (30, 10), (10, 40), (10, 10), (31, 11)]
        view = View(scale_px=10, flip=False)
        with_proposals = self.data(tmp_path, sizes, counts=[5, 0, 1, 7, 2])
        assert loader.demanding_images(with_proposals, view=view, count=3) == [3, 2, 1]
        assert loader.demanding_images(with_proposals, view=view, count=99) == [3, 2, 1, 0, 4]
        without = self.data(tmp_path, sizes)
        assert loader.demanding_images(without, view=view, count=3) == [0, 2, 1]

    def test_none_of_nothing(self, tmp_path: Path) -> None:
        assert loader.demanding_images(self.data(tmp_path, []), view=View(scale_px=10, flip=False), count=3) == []

    def test_of_a_large_split_not_all_are_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "LOOKED_AT", 3)
        data = self.data(tmp_path, [(10, 10 + number) for number in range(7)])
        view = View(scale_px=10, flip=False)
        assert sorted(loader.demanding_images(data, view=view, count=99)) == [0, 2, 4]

    def test_a_pass_over_them_fills_a_batch(self, tmp_path: Path) -> None:
        data = self.data(tmp_path, [(10, 10 + number) for number in range(5)])
        batches = _batches(data, data)
        indices = batches.demanding_images(1)
        assert len(indices) == 3
        seen = [batch.image_ids for views in batches.evaluation_pass(indices) for _, batch in views]
        assert seen == [[str(index) for index in indices]]
