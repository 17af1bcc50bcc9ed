"""Resizing and mirroring of images and boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from wsol.data import transforms
from wsol.data.transforms import View, draw_view, flip_boxes, flip_image, resize_image, resized_size, scale_boxes
from wsol.seeding import generator


@pytest.mark.parametrize(
    ("mode", "scale_px", "max_side_px", "expected"),
    [
        ("longer", 480, 2000, (480, 360)),
        ("longer", 1200, 10, (1200, 900)),  # max_side_px is for `shorter` alone
        ("shorter", 480, 2000, (640, 480)),
        ("shorter", 480, 600, (600, 450)),
        ("shorter", 480, 640, (640, 480)),  # exactly at the limit
        ("square", 128, 10, (128, 128)),
    ],
)
def test_resized_size(mode: transforms.ResizeMode, scale_px: int, max_side_px: int, expected: tuple[int, int]) -> None:
    size = resized_size(width=500, height=375, scale_px=scale_px, mode=mode, max_side_px=max_side_px)
    turned = resized_size(width=375, height=500, scale_px=scale_px, mode=mode, max_side_px=max_side_px)
    assert size == expected
    assert turned == expected[::-1]


def test_a_very_flat_image_keeps_a_pixel() -> None:
    assert resized_size(width=1000, height=1, scale_px=100, mode="longer", max_side_px=2000) == (100, 1)


def test_resizing_is_the_antialiased_bilinear_filter() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    image = resize_image(pixels, size=(20, 15))
    reference = np.asarray(Image.fromarray(pixels).resize((20, 15), Image.Resampling.BILINEAR))  # Pillow antialiases
    assert image.shape == (3, 15, 20)
    assert image.dtype == torch.float32
    assert np.abs(image.permute(1, 2, 0).numpy() * 255 - reference).max() <= 1.01  # one grey level


def test_resizing_to_the_same_size_changes_nothing_and_needs_no_writable_array() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    image = resize_image(pixels, size=(7, 5))
    np.testing.assert_allclose(image.numpy(), pixels.transpose(2, 0, 1) / 255, rtol=0, atol=1e-7)
    assert image.is_contiguous()


def test_boxes_follow_the_rounded_size_axis_by_axis() -> None:
    width, height = resized_size(width=499, height=333, scale_px=101, mode="longer", max_side_px=2000)
    assert (width, height) == (101, 67)  # 67.4 rounded: the factors differ
    whole = np.array([[0, 0, 499, 333]], dtype=np.float32)
    assert scale_boxes(whole, scale=(width / 499, height / 333)).tolist() == [[0, 0, 101, 67]]


def test_the_box_of_the_whole_image_stays_exactly_that() -> None:
    for side in range(1, 2001, 7):
        whole = np.array([[0, 0, side, side]], dtype=np.float32)
        assert scale_boxes(whole, scale=(480 / side, 301 / side)).tolist() == [[0, 0, 480, 301]]


def test_a_box_stays_on_its_object_when_image_and_box_are_mirrored() -> None:
    pixels = np.zeros((6, 10, 3), dtype=np.uint8)
    pixels[1:4, 2:5] = 255  # the object covers x in [2, 5], y in [1, 4]
    box = np.array([[2, 1, 5, 4]], dtype=np.float32)
    mirrored = flip_image(resize_image(pixels, size=(10, 6)))
    x1, y1, x2, y2 = flip_boxes(box, width=10)[0].astype(int)
    assert mirrored[:, y1:y2, x1:x2].min() == 1.0
    assert mirrored.sum() == 3 * (x2 - x1) * (y2 - y1)


def test_mirroring_twice_changes_nothing() -> None:
    boxes = np.array([[0, 0, 3, 2], [1.5, 0, 9, 9]], dtype=np.float32)
    assert np.array_equal(flip_boxes(flip_boxes(boxes, width=9), width=9), boxes)


@pytest.mark.parametrize("transformed", [lambda b: flip_boxes(b, width=9), lambda b: scale_boxes(b, scale=(2, 3))])
def test_no_boxes(transformed) -> None:  # type: ignore[no-untyped-def]
    result = transformed(np.zeros((0, 4), dtype=np.float32))
    assert result.shape == (0, 4)
    assert result.dtype == np.float32


def test_views_cover_all_scales_and_both_directions_evenly() -> None:
    rng = np.random.default_rng(1)
    views = [draw_view(rng, scales_px=(10, 20, 30), flip=True) for _ in range(3000)]
    for scale_px in (10, 20, 30):
        assert 400 < sum(view == View(scale_px, flip=True) for view in views) < 600
        assert 400 < sum(view == View(scale_px, flip=False) for view in views) < 600


def test_turning_flip_on_leaves_the_scales_as_they_were() -> None:
    views = {}
    for flip in (False, True):
        views[flip] = [draw_view(generator(0, "augmentation", i), scales_px=(1, 2, 3), flip=flip) for i in range(50)]
    assert [view.scale_px for view in views[False]] == [view.scale_px for view in views[True]]
    assert not any(view.flip for view in views[False])
    assert any(view.flip for view in views[True])
