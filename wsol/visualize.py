"""Draws on images: boxes with class and score, heat maps, panels side by side with a caption. Torch-free.

Boxes are the project's: pixels of the image, 0-based, continuous. Images of any size can be drawn on, 1 x 1 included:
what does not fit is cut off or left out.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RgbImage = NDArray[np.uint8]
"""uint8 (H, W, 3)."""

MAX_PANEL_PX = 480
"""Longer side of a panel's image: larger images are scaled down to it."""
MIN_PANEL_PX = 240
"""Smaller images are scaled up to it, so that labels have room. It is also a panel's least width."""

_Color = tuple[int, int, int]
_Place = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, right and bottom not included

_BLACK: _Color = (0, 0, 0)
_WHITE: _Color = (255, 255, 255)
_BACKGROUND: _Color = (32, 32, 32)
_MARGIN_PX = 6
_TITLE_FONT_PX = 14
_STACKED_LABELS = 10


@dataclass(frozen=True)
class LabelledBox:
    """A box to be drawn.

    Attributes:
        corners: x1 y1 x2 y2, finite.
        label: index of the class, which gives the colour.
        text: what the label says; empty for none.
    """

    corners: tuple[float, float, float, float]
    label: int
    text: str


@dataclass(frozen=True, eq=False)
class Panel:
    """One view of an image.

    Attributes:
        title: the line above it.
        image: in its own size.
        boxes: in pixels of `image`, the most important first.
        heat_map: float (h, w) in [0, 1] over the whole image, of any size; None for none.
    """

    title: str
    image: RgbImage
    boxes: Sequence[LabelledBox] = ()
    heat_map: NDArray[np.floating] | None = None


def class_color(label: int) -> tuple[int, int, int]:
    """RGB of a class, bright, and far in hue from those of its neighbours."""
    hue = label * 0.618034 % 1.0  # the golden ratio: any first few hues are spread evenly
    saturation = 0.85 if label // 10 % 2 == 0 else 0.5
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(image: RgbImage, boxes: Sequence[LabelledBox]) -> RgbImage:
    """Draws boxes in the colours of their classes, with their labels.

    Lines have a dark rim, labels lie on a plate of the class's colour, so both can be seen on any image. Labels stay
    inside the image. The first boxes are drawn over the later ones, and their labels have the first choice of places.

    Returns:
        A new image of the same size.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    line_px = max(2, round(max(canvas.size) / 200))
    places = [_pixels(box.corners, size=canvas.size) for box in boxes]
    for box, place in reversed(list(zip(boxes, places, strict=True))):
        _outline(draw, place, line_px=line_px + 2, color=_BLACK)
        _outline(draw, _shrunk(place), line_px=line_px, color=class_color(box.label))
    font = _font(min(40, max(11, round(max(canvas.size) / 36))))
    labels: list[tuple[_Place, str, _Color]] = []
    for box, place in zip(boxes, places, strict=True):
        text = _cut(box.text, font, width_px=canvas.width - 5)
        size = _plate_size(text, font)
        if text and size[1] <= canvas.height:
            plate = _label_place(place, size, image_size=canvas.size, taken=[taken for taken, *_ in labels])
            labels.append((plate, text, class_color(box.label)))
    for plate, text, color in reversed(labels):
        _write_label(draw, plate, text, font, color=color)
    return np.array(canvas)


def overlay_heat_map(image: RgbImage, heat_map: NDArray[np.floating]) -> RgbImage:
    """Half the image, half the colours of a map: dark blue for 0, over green, to red for 1.

    Args:
        image: uint8 (H, W, 3).
        heat_map: float (h, w) over the whole image, resized to it bilinearly; values outside [0, 1] are clipped.

    Returns:
        A new image of the same size.
    """
    import cv2

    height, width = image.shape[:2]
    values = cv2.resize(np.asarray(heat_map, dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.round(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)  # (H, W)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[:, :, ::-1]  # OpenCV's colours are BGR
    blended: RgbImage = ((image.astype(np.uint16) + colors + 1) // 2).astype(np.uint8)
    return blended


def region_heat_map(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], *, width: int, height: int, cells: int = 128
) -> NDArray[np.float32]:
    """The sum of the scores of the boxes that cover each place, over its maximum.

    Args:
        boxes: (N, 4) in pixels of the image.
        scores: (N,), at least 0.
        width: of the image, pixels.
        height: likewise.
        cells: of the map, a side.

    Returns:
        float32 (cells, cells) in [0, 1] over the whole image; all 0 where no box has a score. A box covers the cells
        whose centres lie in it: left and upper edge included, right and lower one not.
    """
    per_pixel = np.array([cells / width, cells / height] * 2)
    edges = np.ceil(np.asarray(boxes, dtype=np.float64) * per_pixel - 0.5).clip(0, cells).astype(np.int64)  # (N, 4)
    x1, y1, x2, y2 = edges.T
    steps = np.zeros((cells + 1, cells + 1))  # summed along both axes it is the map: one step up, one down a box
    for rows, columns, sign in ((y1, x1, 1.0), (y1, x2, -1.0), (y2, x1, -1.0), (y2, x2, 1.0)):
        np.add.at(steps, (rows, columns), sign * scores)
    summed = steps.cumsum(axis=0).cumsum(axis=1)[:cells, :cells].clip(min=0.0)
    summed[summed <= 1e-12 * np.abs(scores).sum()] = 0.0  # what rounding leaves where no box is
    highest = summed.max()
    scaled: NDArray[np.float32] = (summed / highest if highest > 0 else summed).astype(np.float32)
    return scaled


def side_by_side(panels: Sequence[Panel], *, caption: str, columns: int | None = None) -> RgbImage:
    """Panels in rows of `columns` (None: one row), each with its title, and a caption line below.

    Args:
        panels: at least one.
        caption: one line, cut off where it is too long.

    Returns:
        The picture: at most `MAX_PANEL_PX` plus a margin a panel wide.
    """
    drawn = [_draw_panel(panel) for panel in panels]
    columns = min(len(drawn), columns or len(drawn))
    rows = -(-len(drawn) // columns)
    font = _font(_TITLE_FONT_PX)
    line_px = _TITLE_FONT_PX + 2 * _MARGIN_PX
    cell_width = max(MIN_PANEL_PX, *(image.width for image in drawn))
    cell_height = line_px + max(image.height for image in drawn)
    width = columns * cell_width + (columns + 1) * _MARGIN_PX
    canvas = Image.new("RGB", (width, rows * cell_height + line_px), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, (panel, image) in enumerate(zip(panels, drawn, strict=True)):
        left = _MARGIN_PX + index % columns * (cell_width + _MARGIN_PX)
        top = index // columns * cell_height
        draw.text((left, top + _MARGIN_PX // 2), _cut(panel.title, font, width_px=cell_width), fill=_WHITE, font=font)
        canvas.paste(image, (left, top + line_px))
    line = _cut(caption, font, width_px=width - 2 * _MARGIN_PX)
    draw.text((_MARGIN_PX, rows * cell_height + _MARGIN_PX // 2), line, fill=_WHITE, font=font)
    return np.array(canvas)


def panel_size(width: int, height: int) -> tuple[int, int]:
    """The size of an image in a panel: its longer side between MIN_PANEL_PX and MAX_PANEL_PX. (width, height)."""
    longer = max(width, height)
    factor = min(MAX_PANEL_PX, max(MIN_PANEL_PX, longer)) / longer
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_panel(panel: Panel) -> Image.Image:
    """Resized first and drawn on then, so that lines and letters are as large in every picture."""
    height, width = panel.image.shape[:2]
    size = panel_size(width, height)
    image = np.array(Image.fromarray(panel.image).resize(size, Image.Resampling.BICUBIC))
    if panel.heat_map is not None:
        image = overlay_heat_map(image, panel.heat_map)
    factors = (size[0] / width, size[1] / height) * 2
    boxes = [
        LabelledBox(
            corners=tuple(value * factor for value, factor in zip(box.corners, factors, strict=True)),
            label=box.label,
            text=box.text,
        )
        for box in panel.boxes
    ]
    return Image.fromarray(draw_boxes(image, boxes))


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *, width_px: int) -> str:
    """One line of at most this width, with dots where something was cut off; empty where nothing fits."""
    line = " ".join(text.split())
    if font.getlength(line) <= width_px:
        return line
    while line and font.getlength(f"{line}...") > width_px:
        line = line[:-1]
    return f"{line}..." if line else ""


def _pixels(corners: tuple[float, float, float, float], *, size: tuple[int, int]) -> _Place:
    """The pixels that a box touches, at least one, inside an image of this size (width, height)."""
    x1, y1, x2, y2 = corners
    left = min(max(int(np.floor(x1)), 0), size[0] - 1)
    top = min(max(int(np.floor(y1)), 0), size[1] - 1)
    right = max(left + 1, min(int(np.ceil(x2)), size[0]))
    bottom = max(top + 1, min(int(np.ceil(y2)), size[1]))
    return left, top, right, bottom


def _shrunk(place: _Place) -> _Place:
    """One pixel less on each side, where there is something left then."""
    left, top, right, bottom = place
    if right - left > 2 and bottom - top > 2:
        return left + 1, top + 1, right - 1, bottom - 1
    return place


def _outline(draw: ImageDraw.ImageDraw, place: _Place, *, line_px: int, color: _Color) -> None:
    left, top, right, bottom = place
    draw.rectangle((left, top, right - 1, bottom - 1), outline=color, width=line_px)  # Pillow's corners are inclusive


def _plate_size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    """(width, height): as high for every text of a font, so that labels are alike."""
    _, top, _, bottom = font.getbbox("Ag")
    return int(np.ceil(font.getlength(text))) + 4, int(np.ceil(bottom - top)) + 4


def _label_place(box: _Place, size: tuple[int, int], *, image_size: tuple[int, int], taken: Sequence[_Place]) -> _Place:
    """Where a label goes: at a corner of its box, inside the image, and if possible not over another label."""
    left, top, right, bottom = box
    width, height = size
    corners = [
        (left, top - height),  # above the box, the usual place
        (left, top),
        (left, bottom),
        (left, bottom - height),
        (right - width, top - height),
        (right - width, top),
        (right - width, bottom),
        (right - width, bottom - height),
        *((left, top + row * height) for row in range(1, _STACKED_LABELS)),  # a pile, of boxes that are all alike
    ]
    inside = [(max(0, min(x, image_size[0] - width)), max(0, min(y, image_size[1] - height))) for x, y in corners]
    places = [(x, y, x + width, y + height) for x, y in inside]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    return (free or places)[0]


def _overlap(a: _Place, b: _Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write_label(
    draw: ImageDraw.ImageDraw,
    place: _Place,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    *,
    color: _Color,
) -> None:
    left, top, right, bottom = place
    draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
    red, green, blue = color
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # Source: ITU-R BT.601
    text_top = top + 2 - font.getbbox("Ag")[1]
    draw.text((left + 2, text_top), text, fill=_BLACK if luminance > 110 else _WHITE, font=font)
