"""What was mended while a split was read: counted, and said once for each kind, never once a file."""

from __future__ import annotations

import logging
from pathlib import Path

_LOGGER = logging.getLogger("wsol.data")
_MAX_EXAMPLES = 3

KINDS = {
    "duplicate_id": "ids listed more than once, kept once",
    "label_of_other_id": "ids in the label files but not in the split, ignored",
    "no_label_file": "classes without a label file where others have one, so that all labels come from the annotations",
    "unusable_size": "annotations without a usable image size (absent, zero, no number), the image's own is used",
    "other_size": "annotations with another size than their image, the image's own is used",
    "exif_off": "EXIF-rotated images annotated as they are stored, so left as they are stored",
    "outside_classes": "objects of classes outside the list, ignored",
    "swapped": "boxes with xmin > xmax or ymin > ymax, corners swapped",
    "clipped": "boxes partly outside their image, clipped",
    "dropped": "boxes wholly outside their image, dropped",
    "unseen_class": "classes without one positive image",
}
"""Kind -> what its warning says. docs/data.md has a table of them."""


class Mends:
    """Counts mends of one split.

    Args:
        root: the data set's folder.
        split: name of the split.
    """

    def __init__(self, *, root: Path, split: str) -> None:
        self._where = f"{root}, split {split!r}"
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def count(self, kind: str, example: str, *, times: int = 1) -> None:
        """Adds `times` mends of a kind (a key of KINDS); the first few different examples are kept."""
        assert kind in KINDS, kind
        if times == 0:
            return
        self._counts[kind] = self._counts.get(kind, 0) + times
        examples = self._examples.setdefault(kind, [])
        if example not in examples and len(examples) <= _MAX_EXAMPLES:
            examples.append(example)

    def report(self) -> None:
        """One warning a kind, in the order of KINDS."""
        for kind, text in KINDS.items():
            if kind in self._counts:
                examples = self._examples[kind]
                shown = ", ".join(examples[:_MAX_EXAMPLES]) + (", ..." if len(examples) > _MAX_EXAMPLES else "")
                _LOGGER.warning("%s: %s: %d (%s)", self._where, text, self._counts[kind], shown)
