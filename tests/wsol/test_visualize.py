"""Drawing: what is seen where, on images of any size."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from wsol import visualize
from wsol.visualize import (
    MAX_PANEL_PX,
    MIN_PANEL_PX,
    LabelledBox,
    Panel,
    class_color,
    draw_boxes,
    overlay_heat_map,
    panel_size,
    region_heat_map,
    side_by_side,
)


def plain(height: int, width: int, value: int = 128) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


def box(*corners: float, label: int = 0, text: str = "") -> LabelledBox:
    x1, y1, x2, y2 = corners
    return LabelledBox(corners=(x1, y1, x2, y2), label=label, text=text)


def changed(image: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((image != drawn).any(axis=2))


class TestBoxes:
    def test_lines_lie_on_the_outermost_pixels_of_the_box(self) -> None:
        image = plain(100, 200)
        mask = changed(image, draw_boxes(image, [box(20, 30, 120, 80)]))
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 119, 79)
        assert not mask[40:70, 30:110].any(), "nothing is drawn inside"

    def test_a_box_of_fractions_touches_whole_pixels(self) -> None:
        image = plain(100, 100)
        rows, columns = np.nonzero(changed(image, draw_boxes(image, [box(20.2, 30.9, 60.1, 70.0)])))
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 60, 69)

    def test_the_class_gives_the_colour_and_a_dark_rim(self) -> None:
        drawn = draw_boxes(plain(100, 100), [box(10, 10, 90, 90, label=3)])
        assert tuple(drawn[50, 10]) == (0, 0, 0)
        assert tuple(drawn[50, 11]) == class_color(3)

    @pytest.mark.parametrize("background", [0, 255])
    def test_every_class_is_seen_on_black_and_on_white(self, background: int) -> None:
        image = plain(60, 60, background)
        for label in range(20):
            drawn = draw_boxes(image, [box(10, 10, 50, 50, label=label)])
            assert np.abs(drawn.astype(int) - background).max() >= 200

    def test_twenty_classes_have_twenty_colours(self) -> None:
        colors = np.array([class_color(label) for label in range(20)])
        distances = np.abs(colors[:, None] - colors[None]).max(axis=2) + 255 * np.eye(20, dtype=int)
        assert distances.min() >= 20

    def test_the_first_box_lies_over_the_others(self) -> None:
        same = (10, 10, 90, 90)
        drawn = draw_boxes(plain(100, 100), [box(*same, label=1), box(*same, label=2)])
        assert np.array_equal(drawn, draw_boxes(plain(100, 100), [box(*same, label=1)]))

    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 300), (14, 14)])
    @pytest.mark.parametrize(
        "corners", [(0, 0, 1, 1), (0, 0, 0, 0), (-5, -5, 999, 999), (40, 40, 20, 20), (99, 99, 100, 100)]
    )
    def test_any_image_and_any_box(self, size: tuple[int, int], corners: tuple[float, ...]) -> None:
        image = plain(*size)
        drawn = draw_boxes(image, [box(*corners, text="class 0.5")])
        assert drawn.shape == image.shape
        assert np.array_equal(image, plain(*size)), "the image given stays as it is"

    def test_no_boxes(self) -> None:
        image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        assert np.array_equal(draw_boxes(image, []), image)


class TestLabels:
    @pytest.mark.parametrize("corners", [(0, 0, 20, 20), (180, 0, 200, 20), (0, 80, 20, 100), (180, 80, 200, 100)])
    def test_they_stay_inside_the_image(self, corners: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        plates: list[tuple[int, int, int, int]] = []
        monkeypatch.setattr(visualize, "_write_label", lambda draw, place, *rest, **options: plates.append(place))
        draw_boxes(plain(100, 200), [box(*corners, text="pottedplant 0.87"), box(*corners, text="x" * 500)])
        assert len(plates) == 2
        for left, top, right, bottom in plates:
            assert 0 <= left < right <= 200
            assert 0 <= top < bottom <= 100

    def test_those_of_equal_boxes_do_not_cover_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plates: list[tuple[int, int, int, int]] = []
        monkeypatch.setattr(visualize, "_write_label", lambda draw, place, *rest, **options: plates.append(place))
        draw_boxes(plain(240, 240), [box(0, 0, 240, 240, label=label, text=f"class {label}") for label in range(10)])
        assert len(plates) == 10
        assert not any(visualize._overlap(a, b) for index, a in enumerate(plates) for b in plates[:index])

    def test_the_first_one_lies_above_its_box(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plates: list[tuple[int, int, int, int]] = []
        monkeypatch.setattr(visualize, "_write_label", lambda draw, place, *rest, **options: plates.append(place))
        draw_boxes(plain(200, 200), [box(50, 60, 150, 160, text="cat")])
        assert plates[0][0] == 50
        assert plates[0][3] == 60

    def test_letters_are_dark_on_a_bright_plate_and_bright_on_a_dark_one(self) -> None:
        for label in range(10):
            drawn = draw_boxes(plain(100, 200), [box(50, 60, 150, 90, label=label, text="AAAA")])
            plate = drawn[45:60, 52:80].reshape(-1, 3).astype(int)
            assert np.abs(plate - np.array(class_color(label))).max(axis=1).max() >= 150

    def test_a_text_of_several_lines_is_one(self) -> None:
        image = plain(100, 200)
        one, two = (draw_boxes(image, [box(50, 60, 150, 90, text=text)]) for text in ("a b", "a\n  b"))
        assert np.array_equal(one, two)


class TestHeatMaps:
    def test_high_is_red_and_low_is_blue(self) -> None:
        heat_map = np.array([[0.05, 0.95]], dtype=np.float16)
        drawn = overlay_heat_map(plain(10, 100, 0), heat_map).astype(int)
        cold, hot = drawn[5, 0], drawn[5, -1]
        assert cold[2] > cold[0]
        assert hot[0] > hot[2]

    def test_half_of_it_is_the_image(self) -> None:
        heat_map = np.full((4, 4), 0.5)
        dark, bright = (overlay_heat_map(plain(8, 8, value), heat_map).astype(int) for value in (0, 200))
        assert np.all(bright - dark == 100)

    def test_values_outside_the_range_are_clipped(self) -> None:
        image = plain(4, 4)
        below, zero = (overlay_heat_map(image, np.full((2, 2), value)) for value in (-3.0, 0.0))
        assert np.array_equal(below, zero)

    def test_an_image_of_one_pixel(self) -> None:
        assert overlay_heat_map(plain(1, 1), np.random.default_rng(0).random((64, 64))).shape == (1, 1, 3)


def painted_cell_by_cell(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], *, width: int, height: int, cells: int
) -> NDArray[np.float64]:
    painted = np.zeros((cells, cells))
    for row in range(cells):
        for column in range(cells):
            x, y = (column + 0.5) * width / cells, (row + 0.5) * height / cells
            for (x1, y1, x2, y2), score in zip(boxes, scores, strict=True):
                if x1 <= x < x2 and y1 <= y < y2:
                    painted[row, column] += score
    return painted / painted.max() if painted.max() > 0 else painted


class TestRegionHeatMap:
    def test_it_is_the_sum_over_the_boxes_that_cover_a_cell(self) -> None:
        rng = np.random.default_rng(0)
        corners = rng.random((20, 2, 2)) * [300, 200]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        scores = rng.random(20)
        expected = painted_cell_by_cell(boxes, scores, width=300, height=200, cells=16)
        found = region_heat_map(boxes, scores, width=300, height=200, cells=16)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.max() == 1.0

    def test_the_whole_image(self) -> None:
        found = region_heat_map(np.array([[0.0, 0.0, 7.0, 3.0]]), np.array([1e-9]), width=7, height=3, cells=8)
        assert np.all(found == 1.0)

    def test_no_boxes_and_no_scores(self) -> None:
        assert not region_heat_map(np.zeros((0, 4)), np.zeros(0), width=5, height=5).any()
        assert not region_heat_map(np.array([[0.0, 0.0, 5.0, 5.0]]), np.zeros(1), width=5, height=5).any()

    def test_where_no_box_is_nothing_is_left_by_rounding(self) -> None:
        boxes = np.array([[0.0, 0.0, 0.5, 0.5]] * 3)
        found = region_heat_map(boxes, np.array([0.1, 0.2, 0.3]), width=1, height=1, cells=8)
        assert not found[4:].any()
        assert not found[:, 4:].any()


class TestPanels:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ((480, 360), (480, 360)),
            ((960, 720), (480, 360)),
            ((3000, 1), (480, 1)),
            ((100, 50), (240, 120)),
            ((1, 1), (240, 240)),
            ((300, 240), (300, 240)),
        ],
    )
    def test_sizes(self, given: tuple[int, int], expected: tuple[int, int]) -> None:
        assert panel_size(*given) == expected

    def test_two_side_by_side(self) -> None:
        image = plain(300, 400, 200)
        picture = side_by_side([Panel(title="left", image=image), Panel(title="right", image=image)], caption="below")
        bright = (picture == 200).all(axis=2)
        assert bright.sum() == pytest.approx(2 * 300 * 400, rel=0.001)
        assert bright[:, : picture.shape[1] // 2].sum() == pytest.approx(300 * 400, rel=0.001)

    def test_boxes_follow_when_the_image_is_resized(self) -> None:
        panel = Panel(title="", image=plain(720, 960), boxes=[box(96, 144, 864, 576)])
        picture = side_by_side([panel], caption="")
        inside = np.nonzero((picture == class_color(0)).all(axis=2))
        height, width = (int(axis.max() - axis.min()) + 1 for axis in inside)
        assert (width, height) == (384 - 2, 216 - 2)  # the rim is one pixel wide

    def test_rows(self) -> None:
        panels = [Panel(title="", image=plain(100, 240)) for _ in range(5)]
        wide, high = side_by_side(panels, caption=""), side_by_side(panels, caption="", columns=2)
        assert wide.shape[1] > 2 * high.shape[1]
        assert high.shape[0] > 2 * wide.shape[0]

    def test_what_does_not_fit_is_cut(self) -> None:
        long = "a very long caption " * 100
        picture = side_by_side([Panel(title=long, image=plain(50, 50))], caption=long)
        assert picture.shape[1] < MAX_PANEL_PX
        assert picture.shape[1] >= MIN_PANEL_PX

    def test_a_pixel(self) -> None:
        panel = Panel(title="t", image=plain(1, 1), boxes=[box(0, 0, 1, 1, text="x")], heat_map=np.ones((64, 64)))
        assert side_by_side([panel], caption="c").ndim == 3


def test_neither_torch_nor_opencv_is_imported() -> None:
    program = "import sys, wsol.visualize, wsol.pictures; sys.exit(bool({'torch', 'cv2'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
