"""Boxes around the hot parts of a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsol.heat_maps import BOX_GRID, GRID, HeatMaps, component_boxes, min_max_scaled, on_box_grid

Array = np.ndarray[Any, Any]


def blank() -> Array:
    """As large as the grid of boxes, so that nothing is resized."""
    return np.zeros((BOX_GRID, BOX_GRID), np.float32)


def cells(boxes: Array) -> list[list[float]]:
    return (boxes * BOX_GRID).tolist()


class TestBoxes:
    def test_around_each_component_best_peak_first(self) -> None:
        heat = blank()
        heat[10:20, 30:50] = 5.0
        heat[100:110, 200:203] = 8.0
        heat[105, 201] = 10.0
        boxes, peaks = component_boxes(heat, threshold=0.5, components="all")
        assert cells(boxes) == [[200, 100, 203, 110], [30, 10, 50, 20]]
        assert peaks.tolist() == [10.0, 5.0]
        assert (boxes.dtype, peaks.dtype) == (np.float32, np.float32)

    def test_the_largest_has_the_most_cells_not_the_largest_box(self) -> None:
        heat = blank()
        heat[0:10, 0:10] = 1.0  # 100 cells
        heat[50, 50:120] = heat[50:79, 50] = 2.0  # 98 cells, a box of 70 x 29
        boxes, peaks = component_boxes(heat, threshold=0.1, components="largest")
        assert cells(boxes) == [[0, 0, 10, 10]]
        assert peaks.tolist() == [1.0]

    def test_of_two_largest_the_higher_peak(self) -> None:
        heat = blank()
        heat[0:4, 0:4] = 1.0
        heat[20:28, 20:22] = 1.0
        heat[20, 20] = 1.5
        boxes, _ = component_boxes(heat, threshold=0.5, components="largest")
        assert cells(boxes) == [[20, 20, 22, 28]]

    def test_ties_from_the_top_and_left(self) -> None:
        heat = blank()
        for y, x in ((80, 10), (40, 90), (40, 20)):
            heat[y, x] = 1.0
        boxes, peaks = component_boxes(heat, threshold=1.0, components="all")
        assert cells(boxes) == [[20, 40, 21, 41], [90, 40, 91, 41], [10, 80, 11, 81]]
        assert peaks.tolist() == [1.0] * 3
        assert cells(component_boxes(heat, threshold=1.0, components="largest")[0]) == [[20, 40, 21, 41]]

    def test_cells_touch_at_corners(self) -> None:
        heat = blank()
        heat[5, 5] = heat[6, 6] = heat[7, 5] = 1.0
        assert cells(component_boxes(heat, threshold=0.5, components="all")[0]) == [[5, 5, 7, 8]]

    def test_a_value_equal_to_the_threshold_is_in(self) -> None:
        heat = blank()
        heat[5, 5:9] = [2.0, 1.0, 1.0, 4.0]
        for threshold, expected in (
            (0.25, [[5, 5, 9, 6]]),
            (0.2500001, [[8, 5, 9, 6], [5, 5, 6, 6]]),
            (0.5, [[8, 5, 9, 6], [5, 5, 6, 6]]),
            (0.5000001, [[8, 5, 9, 6]]),
            (0.0, [[0, 0, 256, 256]]),
        ):
            assert cells(component_boxes(heat, threshold=threshold, components="all")[0]) == expected

    def test_scale_and_offset_of_the_map_do_not_count_but_in_the_peaks(self) -> None:
        heat = blank()
        heat[10:20, 30:50] = 4.0
        heat[100:110, 200:203] = 8.0
        shifted = heat * 2 - 30
        boxes, peaks = component_boxes(shifted, threshold=0.4, components="all")
        assert np.array_equal(boxes, component_boxes(heat, threshold=0.4, components="all")[0])
        assert peaks.tolist() == [-14.0, -22.0]

    @pytest.mark.parametrize("value", [0.0, -3.0, 7.5])
    @pytest.mark.parametrize("components", ["all", "largest"])
    @pytest.mark.parametrize("shape", [(1, 1), (5, 3), (GRID, GRID)])
    def test_a_constant_map_is_the_whole_image(self, value: float, components: Any, shape: tuple[int, int]) -> None:
        boxes, peaks = component_boxes(np.full(shape, value, np.float16), threshold=1.0, components=components)
        assert boxes.tolist() == [[0, 0, 1, 1]]
        assert peaks.tolist() == [value]

    def test_a_cell_of_the_kept_grid(self) -> None:
        """Bilinear, cell centres half a cell from the border: a hot cell's four quarters stay its own."""
        heat = np.zeros((GRID, GRID), np.float32)
        heat[10, 20] = 1.0
        boxes, peaks = component_boxes(heat, threshold=1.0, components="all")
        # Of a cell's four columns the inner two are 1/8 of a cell from its centre: (7/8)^2.
        assert cells(boxes) == [[81, 41, 83, 43]]
        assert peaks.tolist() == [0.875**2]

    def test_x_is_a_column(self) -> None:
        wide = np.zeros((2, 4), np.float32)
        wide[:, 3] = 1.0
        (box,) = component_boxes(wide, threshold=0.5, components="all")[0]
        assert box.tolist() == [0.75, 0, 1, 1]  # halfway between the centres of the last two columns

    def test_equals_a_flood_fill(self) -> None:
        rng = np.random.default_rng(3)
        for _ in range(6):
            heat = blank()
            heat[60:90, 60:100] = rng.integers(0, 8, size=(30, 40))
            heat[60, 60] = 8.0
            threshold = float(rng.choice([0.25, 0.5, 0.75]))
            expected = flood_filled(heat, threshold * 8)
            boxes, peaks = component_boxes(heat, threshold=threshold, components="all")
            found = [(-peak, y1, x1, x2, y2) for (x1, y1, x2, y2), peak in zip(cells(boxes), peaks, strict=True)]
            assert sorted(found) == sorted((-peak, y1, x1, x2, y2) for x1, y1, x2, y2, peak, _ in expected)
            assert [one[:3] for one in found] == sorted(one[:3] for one in found)
            most = max(count for *_, count in expected)
            *_, peak = min((-count, -peak, y1, x1, peak) for x1, y1, x2, y2, peak, count in expected)
            assert component_boxes(heat, threshold=threshold, components="largest")[1].tolist() == [peak]
            assert most >= 1


def flood_filled(heat: Array, value: float) -> list[tuple[int, int, int, int, float, int]]:
    """x1 y1 x2 y2 peak cells of each component, cell by cell."""
    left = {(int(y), int(x)) for y, x in np.argwhere(heat >= value)}
    found = []
    while left:
        component, waiting = [], [left.pop()]
        while waiting:
            y, x = waiting.pop()
            component.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            waiting += around
        ys, xs = zip(*component, strict=True)
        peak = max(float(heat[cell]) for cell in component)
        found.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1, peak, len(component)))
    return found


class TestScaling:
    def test_to_0_and_1(self) -> None:
        scaled = min_max_scaled(np.array([[-2.0, 0.0], [2.0, 6.0]], np.float32))
        assert scaled.tolist() == [[0.0, 0.25], [0.5, 1.0]]

    def test_the_range_does_not_overflow(self) -> None:
        largest = np.finfo(np.float32).max
        assert min_max_scaled(np.array([[-largest, largest, 0.0]], np.float32)).tolist() == [[0.0, 1.0, 0.5]]
        half = np.array([[-60000.0, 60000.0]], np.float16)
        assert min_max_scaled(half).tolist() == [[0.0, 1.0]]

    def test_a_tiny_range_is_a_range(self) -> None:
        values = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2))]], np.float32)
        assert min_max_scaled(values).tolist() == [[0.0, 1.0]]


class TestRefusals:
    @pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 3, 3)])
    def test_of_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"for a heat map; expected \(h, w\) of at least 1 x 1"):
            on_box_grid(np.zeros(shape, np.float32))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_of_values(self, value: float) -> None:
        with pytest.raises(ValueError, match="got a heat map with NaN or infinity; expected finite numbers"):
            component_boxes(np.array([[0.0, value]]), threshold=0.5, components="all")

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_of_thresholds(self, threshold: float) -> None:
        with pytest.raises(ValueError, match=f"got {threshold} for threshold; expected 0 <= threshold <= 1"):
            component_boxes(np.zeros((2, 2)), threshold=threshold, components="all")


def heat_maps(images: list[int], labels: list[int]) -> HeatMaps:
    maps = np.zeros((len(images), GRID, GRID), np.float16)
    return HeatMaps(maps=maps, images=np.array(images, np.int64), labels=np.array(labels, np.int64))


class TestHeatMaps:
    def test_pairs_ascend(self) -> None:
        assert len(heat_maps([0, 0, 2], [1, 3, 0]).maps) == 3
        assert len(heat_maps([], []).maps) == 0

    @pytest.mark.parametrize(("images", "labels"), [([0, 0], [1, 1]), ([0, 0], [2, 1]), ([1, 0], [0, 1])])
    def test_other_orders_are_refused(self, images: list[int], labels: list[int]) -> None:
        with pytest.raises(ValueError, match=r"expected them to ascend by \(image, label\)"):
            heat_maps(images, labels)

    def test_shapes_and_values(self) -> None:
        index = np.zeros(1, np.int64)
        with pytest.raises(ValueError, match=r"got shape \(1, 32, 32\) for HeatMaps.maps; expected \(1, 64, 64\)"):
            HeatMaps(maps=np.zeros((1, 32, 32), np.float16), images=index, labels=index)
        with pytest.raises(ValueError, match=r"got shape \(1,\) for HeatMaps.images; expected \(2,\)"):
            HeatMaps(maps=np.zeros((2, GRID, GRID), np.float16), images=index, labels=index)
        with pytest.raises(ValueError, match=r"got HeatMaps.maps with NaN or infinity"):
            HeatMaps(maps=np.full((1, GRID, GRID), np.inf, np.float16), images=index, labels=index)
