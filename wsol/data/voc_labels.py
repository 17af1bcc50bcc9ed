"""Image-level labels of a split: from the label files `<class>_<split>.txt`, or from annotations already read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsol.data.images import DataError
from wsol.data.mends import Mends
from wsol.data.voc_layout import LABEL_VALUES, VocFolder, listed, numbered_lines
from wsol.data.voc_xml import Content

PRESENT, ONLY_DIFFICULT, ABSENT = 1, 0, -1
"""Labels as in VOC's label files. 0 is ignored in the loss."""


def labels_from_files(
    folder: VocFolder, ids: list[str], *, split: str, classes: tuple[str, ...], mends: Mends
) -> npt.NDArray[np.int8] | None:
    """Labels from `<class>_<split>.txt`.

    Returns:
        int8 (I, C), or None where a class has no such file and the annotations can be asked instead.

    Raises:
        DataError: a line that is none of `<id> 1|0|-1`, an id without a label or with two, or a class
            without a file where there are no annotations either.
    """
    files = {name: path for name in classes if (path := folder.label_file(name, split)) is not None}
    without = [name for name in classes if name not in files]
    if without and folder.annotation_folder.is_dir():
        if files:
            mends.count("no_label_file", listed(without), times=len(without))
        return None
    if without:
        raise DataError(
            f"got no {without[0]}_{split}.txt in {folder.list_folder} and no folder Annotations in {folder.root};"
            f" expected a label file for each class ({len(without)} of {len(classes)} have none) or annotations"
        )
    known = set(ids)
    labels = np.empty((len(ids), len(classes)), dtype=np.int8)
    for column, path in enumerate(files.values()):
        values = _read_label_file(path)
        missing = [image_id for image_id in ids if image_id not in values]
        if missing:
            raise DataError(
                f"got no label for {len(missing)} ids of split {split!r} in {path}: {listed(missing)};"
                " expected a line `<id> 1|0|-1` for each"
            )
        labels[:, column] = [values[image_id] for image_id in ids]
        if column == 0:  # the other classes list the same ids
            others = [image_id for image_id in values if image_id not in known]
            mends.count("label_of_other_id", listed(others), times=len(others))
    return labels


def _read_label_file(path: Path) -> dict[str, int]:
    """Id -> 1, 0 or -1."""
    values: dict[str, int] = {}
    for number, line in numbered_lines(path):
        image_id, _, label = line.replace("\t", " ").rpartition(" ")
        if not image_id or label not in LABEL_VALUES:
            raise DataError(f"got {line!r} in {path}:{number}; expected `<id> 1`, `<id> 0` or `<id> -1`")
        value = LABEL_VALUES[label]
        if values.setdefault(image_id.strip(), value) != value:
            raise DataError(f"got two different labels for {image_id.strip()!r} in {path}:{number}; expected one")
    return values


def labels_from_contents(contents: list[Content], classes: tuple[str, ...], mends: Mends) -> npt.NDArray[np.int8]:
    """Labels from the names and `difficult` flags of objects.

    One object that is not difficult makes a class present, whatever the others are. Objects of
    classes outside `classes` are counted as a mend.

    Returns:
        int8 (I, C).
    """
    column = {name: index for index, name in enumerate(classes)}
    labels = np.full((len(contents), len(classes)), ABSENT, dtype=np.int8)
    for row, content in enumerate(contents):
        for item in content.objects:
            if item.name not in column:
                mends.count("outside_classes", item.name)
                continue
            label = ONLY_DIFFICULT if item.difficult else PRESENT
            labels[row, column[item.name]] = max(labels[row, column[item.name]], label)  # present > difficult > absent
    return labels


def count_unseen(labels: npt.NDArray[np.int8], classes: Sequence[str], mends: Mends) -> None:
    """Classes without a positive image cannot be learned, and have no average precision."""
    for name, positive in zip(classes, (labels == PRESENT).any(axis=0), strict=True):
        if not positive:
            mends.count("unseen_class", name)
