"""Selective search and the sliding-window grid. What all sources promise is in tests/contracts."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from wsol.boxes import iou
from wsol.data import proposal_sources
from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_sources import SelectiveSearch, SlidingWindowGrid

REPOSITORY = Path(__file__).resolve().parents[3]
TARGET = (30, 12, 70, 32)
"""x1 y1 x2 y2 of a bright rectangle: wider than high, and off the diagonal."""


def save(path: Path, pixels: np.ndarray) -> ImageRecord:
    Image.fromarray(pixels).save(path)
    return ImageRecord(id=path.stem, path=path)


def rectangle(scale: int = 1) -> np.ndarray:
    pixels = np.full((60 * scale, 100 * scale, 3), (20, 40, 60), dtype=np.uint8)
    x1, y1, x2, y2 = (scale * corner for corner in TARGET)
    pixels[y1:y2, x1:x2] = (240, 200, 30)
    return pixels


def textured(height: int = 60, width: int = 80) -> np.ndarray:
    """Coloured blobs: enough segments for a few dozen boxes."""
    noise = np.random.default_rng(0).integers(0, 256, size=(height // 10, width // 10, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def best_overlap(boxes: np.ndarray, target: tuple[float, ...]) -> float:
    return float(iou(boxes, np.array([target], dtype=np.float32)).max())


def digest(boxes: np.ndarray) -> str:
    return hashlib.sha256(boxes.tobytes()).hexdigest()


@pytest.mark.parametrize("quality", ["fast", "quality"])
def test_a_rectangle_is_found_where_it_is(tmp_path: Path, quality: str) -> None:
    record = save(tmp_path / "a.png", rectangle())
    boxes = SelectiveSearch(quality=quality).propose(record).boxes
    assert best_overlap(boxes, TARGET) >= 0.9
    x1, y1, x2, y2 = TARGET
    assert best_overlap(boxes, (y1, x1, y2, x2)) < 0.5, "x and y are exchanged"


@pytest.mark.parametrize("resize_px", [50, 100, 150])
def test_boxes_of_a_resized_image_are_in_its_original_pixels(tmp_path: Path, resize_px: int) -> None:
    record = save(tmp_path / "a.png", rectangle(scale=4))
    boxes = SelectiveSearch(resize_px=resize_px).propose(record).boxes
    assert best_overlap(boxes, tuple(4 * corner for corner in TARGET)) >= 0.8
    np.testing.assert_array_equal(boxes, np.rint(boxes))


@pytest.mark.parametrize("height", [3, 14])
def test_both_sides_are_scaled_by_their_own_factor(tmp_path: Path, height: int) -> None:
    """500 px become 50, and a height below 15 becomes 1: not a tenth."""
    record = save(tmp_path / "a.png", np.repeat(textured(height=10, width=500)[:1], height, axis=0))
    boxes = SelectiveSearch(resize_px=50).propose(record).boxes
    assert set(boxes[:, 1]) == {0}
    assert set(boxes[:, 3]) == {height}


def test_boxes_that_shrink_to_nothing_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rectangles = np.array([[0, 0, 60, 40], [16, 16, 2, 20], [16, 16, 20, 2]], dtype=np.int32)  # x y width height
    monkeypatch.setattr(proposal_sources, "_run_selective_search", lambda *_, **__: rectangles)
    record = save(tmp_path / "a.png", textured(height=10, width=16))
    boxes = SelectiveSearch(resize_px=160).propose(record).boxes
    np.testing.assert_array_equal(boxes, [[0, 0, 6, 4], [0, 0, 16, 10]])


def test_opencv_sees_the_image_as_it_reads_it_itself(tmp_path: Path) -> None:
    """OpenCV's own reader gives blue, green, red. Selective search works in HSV, so the channels' order matters."""
    record = save(tmp_path / "a.png", textured())
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.imread(str(record.path)))
    search.switchToSelectiveSearchFast()
    expected = {(x, y, x + w, y + h) for x, y, w, h in search.process().tolist()}
    assert len(expected) > 20
    assert {tuple(box) for box in SelectiveSearch().propose(record).boxes.tolist()} == expected


def test_quality_finds_more_than_fast(tmp_path: Path) -> None:
    record = save(tmp_path / "a.png", textured())
    fast, quality = (SelectiveSearch(quality=mode).propose(record).boxes for mode in ("fast", "quality"))
    assert len(quality) > len(fast)


def test_another_process_with_another_random_state_finds_the_same(tmp_path: Path) -> None:
    record = save(tmp_path / "a.png", textured())
    program = (
        "import ctypes, hashlib, sys; from pathlib import Path; ctypes.CDLL(None).srand(99)\n"
        "from wsol.data.images import ImageRecord; from wsol.data.proposal_sources import SelectiveSearch\n"
        "boxes = SelectiveSearch().propose(ImageRecord('a', Path(sys.argv[1]))).boxes\n"
        "print(hashlib.sha256(boxes.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(record.path)]
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    other = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    boxes = SelectiveSearch().propose(record).boxes
    assert len(boxes) > 20
    assert other.stdout.strip() == digest(boxes)


class BrokenSearch:
    """Stands in for OpenCV's class: notes the threads, then fails."""

    threads_seen = 0

    def setBaseImage(self, image: np.ndarray) -> None:  # noqa: N802
        pass

    def switchToSelectiveSearchFast(self) -> None:  # noqa: N802
        pass

    def process(self) -> np.ndarray:
        BrokenSearch.threads_seen = cv2.getNumThreads()
        raise cv2.error("Failed to allocate 1 bytes")


def test_one_thread_inside_and_as_before_outside_and_failures_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = save(tmp_path / "a.png", textured())
    before = cv2.getNumThreads()
    monkeypatch.setattr(cv2.ximgproc.segmentation, "createSelectiveSearchSegmentation", BrokenSearch)
    cv2.setNumThreads(2)
    try:
        with pytest.raises(DataError, match=r"got Failed to allocate .* from selective search on .*a\.png"):
            SelectiveSearch().propose(record)
        assert BrokenSearch.threads_seen == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_an_opencv_without_contrib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = save(tmp_path / "a.png", textured())
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(ImportError, match="expected opencv-contrib-python-headless"):
        SelectiveSearch().propose(record)


def test_the_key_names_everything_that_shapes_the_boxes() -> None:
    sources = [SelectiveSearch(quality=q, resize_px=r) for q in ("fast", "quality") for r in (None, 100, 200)]
    assert len({source.key for source in sources}) == 6
    major, minor = cv2.__version__.split(".")[:2]
    assert SelectiveSearch(resize_px=100).key == (
        f"selective_search/1 opencv={major}.{minor} quality=fast resize_px=100"
    )
    base = {"scales": (0.5,), "aspect_ratios": (1.0,), "stride": 0.5}
    changes = [{}, {"scales": (0.25,)}, {"aspect_ratios": (2.0,)}, {"stride": 0.25}]
    assert len({SlidingWindowGrid(**{**base, **change}).key for change in changes}) == 4


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'best' for quality; expected fast or quality"):
        SelectiveSearch(quality="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 0 for resize_px"):
        SelectiveSearch(resize_px=0)


def grid_boxes(tmp_path: Path, width: int, height: int, **parameters: object) -> np.ndarray:
    record = save(tmp_path / "grid.png", np.zeros((height, width, 3), np.uint8))
    return SlidingWindowGrid(**parameters).propose(record).boxes  # type: ignore[arg-type]


def test_a_small_grid_by_hand(tmp_path: Path) -> None:
    boxes = grid_boxes(tmp_path, 100, 40, scales=(0.5,), aspect_ratios=(1.0,), stride=0.5)
    windows = {(x, y, x + 50, y + 20) for x in (0, 25, 50) for y in (0, 10, 20)}
    assert {tuple(box) for box in boxes.tolist()} == windows | {(0, 0, 100, 40)}
    assert len(boxes) == 10


def test_scale_is_the_root_of_the_area_and_ratio_is_relative_to_the_image(tmp_path: Path) -> None:
    boxes = grid_boxes(tmp_path, 200, 50, scales=(0.25,), aspect_ratios=(4.0,), stride=1.0)
    sides = {tuple(side) for side in (boxes[:, 2:] - boxes[:, :2]).tolist()}
    assert sides == {(100, 6.25), (200, 50)}  # 0.25 * 2 of the width, 0.25 / 2 of the height


def test_windows_wider_than_the_image_are_cut_to_it(tmp_path: Path) -> None:
    boxes = grid_boxes(tmp_path, 80, 80, scales=(0.75,), aspect_ratios=(4.0,), stride=1.0)
    assert {tuple(box[[0, 2]]) for box in boxes} == {(0, 80)}
    assert {tuple(side) for side in (boxes[:, 2:] - boxes[:, :2]).tolist()} == {(80, 30), (80, 80)}


@pytest.mark.parametrize("stride", [0.1, 0.25, 0.3, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.1, 0.25, 0.3, 0.75, 1.0])
def test_windows_reach_from_border_to_border_with_no_step_too_long(tmp_path: Path, scale: float, stride: float) -> None:
    boxes = grid_boxes(tmp_path, 97, 61, scales=(scale,), aspect_ratios=(1.0,), stride=stride)
    windows = boxes[boxes[:, 2] - boxes[:, 0] < 96.9] if scale < 1 else boxes
    lefts = np.unique(windows[:, 0])
    assert lefts[0] == 0
    assert windows[:, 2].max() == 97
    assert np.diff(lefts).max(initial=0) <= stride * scale * 97 * (1 + 1e-5)
    fewest = math.ceil(round((1 - scale) / (stride * scale), 6)) + 1
    assert len(lefts) == fewest, "no window more than the stride needs"
    mirrored = np.unique(np.round(97 - windows[:, 2], 3))
    np.testing.assert_allclose(mirrored, lefts, atol=2e-3)


def test_the_default_grid_has_the_same_number_for_every_image(tmp_path: Path) -> None:
    defaults = {"scales": (0.25, 0.5, 0.75), "aspect_ratios": (0.5, 1.0, 2.0), "stride": 0.25}
    sizes = [(500, 375), (375, 500), (33, 1000)]
    assert {len(grid_boxes(tmp_path, *size, **defaults)) for size in sizes} == {628}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scales": ()}, "for scales; expected one or more in"),
        ({"scales": (0.5, 1.1)}, "for scales; expected one or more in"),
        ({"aspect_ratios": (0.0,)}, "for aspect_ratios; expected one or more above 0"),
        ({"aspect_ratios": (math.inf,)}, "for aspect_ratios; expected one or more above 0"),
        ({"stride": 0.0}, "for stride; expected a fraction"),
        ({"stride": 1.5}, "for stride; expected a fraction"),
        ({"scales": (0.001,)}, "windows; expected at most 1000000"),
    ],
)
def test_impossible_grids_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlidingWindowGrid(**{"scales": (0.5,), "aspect_ratios": (1.0,), "stride": 0.5, **parameters})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", [SelectiveSearch(resize_px=7), SlidingWindowGrid(scales=(0.5,), aspect_ratios=(1.0,), stride=0.5)]
)
def test_sources_pickle(source: SelectiveSearch | SlidingWindowGrid) -> None:
    assert pickle.loads(pickle.dumps(source)) == source


def test_importing_and_asking_for_keys_stays_light() -> None:
    program = (
        "import sys\n"
        "import wsol.data.digits, wsol.data.proposals, wsol.data.proposal_files, wsol.data.proposal_fill\n"
        "from wsol.data.proposal_sources import SelectiveSearch\n"
        "SelectiveSearch().key\n"
        "print([name for name in ('cv2', 'sklearn', 'scipy', 'torch') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
