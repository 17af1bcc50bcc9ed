"""A folder in VOC layout: which files there are. Opens the lists of ImageSets/Main, no annotation and no image.

    ROOT/JPEGImages/<id>.jpg          (or .jpeg .png .bmp .webp, in any case)
    ROOT/Annotations/<id>.xml         (where boxes or labels come from it)
    ROOT/ImageSets/Main/<split>.txt   one id a line
    ROOT/ImageSets/Main/<class>_<split>.txt   optional: `<id> 1|0|-1` a line

Names from a list are looked up in the listing of a folder and never joined to a path, so no id,
class or split can lead out of the root.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from wsol.data.images import DataError
from wsol.data.mends import Mends

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LABEL_VALUES = {"1": 1, "+1": 1, "0": 0, "-1": -1}
_MAX_LISTED = 5
_MAX_FOLDERS_SEARCHED = 1000


class VocFolder:
    """The files of one data set, listed once a folder.

    Raises:
        DataError: where the root, JPEGImages or ImageSets/Main is missing; says which folder may be meant.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"got no folder at {root}; expected a data set in VOC layout{_did_you_mean_folder(root)}")
        self.root = root
        self.image_folder = root / "JPEGImages"
        self.annotation_folder = root / "Annotations"
        self.list_folder = root / "ImageSets" / "Main"
        for folder in (self.image_folder, self.list_folder):
            if not folder.is_dir():
                hint = _did_you_mean_root(root) or _did_you_mean_folder(folder)
                raise DataError(f"got no folder {folder.relative_to(root)} in {root}; expected VOC layout{hint}")

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """Id -> its image files; more than one is a fault of the data, if the id is used."""
        return _files_by_stem(self.image_folder, IMAGE_EXTENSIONS)

    @cached_property
    def annotations(self) -> dict[str, list[Path]]:
        """Id -> its annotation files; empty where there is no such folder."""
        return _files_by_stem(self.annotation_folder, (".xml",)) if self.annotation_folder.is_dir() else {}

    @cached_property
    def lists(self) -> dict[str, Path]:
        """Name -> file, of every `<name>.txt` in ImageSets/Main: splits and label files."""
        files = _files_by_stem(self.list_folder, (".txt",))
        return {name: paths[0] for name, paths in files.items()}

    @cached_property
    def split_names(self) -> list[str]:
        """The lists that are no label files, sorted."""
        return [name for name, path in self.lists.items() if not is_label_file(path)]

    def split_file(self, split: str) -> Path:
        """Raises DataError with the nearest name where there is no such split."""
        if split not in self.lists:
            near = did_you_mean(split.removesuffix(".txt"), self.split_names)
            expected = f"one of {listed(self.split_names)}" if self.split_names else "a file <split>.txt"
            raise DataError(f"got no split {split!r} in {self.list_folder}; expected {expected}{near}")
        return self.lists[split]

    def ids(self, split: str, mends: Mends) -> list[str]:
        """The ids of a split, in the order of its file, each once.

        An id is the whole line where there is an image of that name (names with spaces), else the
        first column.

        Raises:
            DataError: no such split, an empty one, or an id that is a path.
        """
        path = self.split_file(split)
        ids: dict[str, None] = {}
        for number, line in numbered_lines(path):
            if "/" in line or "\\" in line or line in (".", ".."):
                raise DataError(
                    f"got {line!r} in {path}:{number}; expected the name of an image in JPEGImages, not a path"
                )
            image_id = line if line in self.images else line.split()[0]
            if image_id in ids:
                mends.count("duplicate_id", image_id)
            ids[image_id] = None
        if not ids:
            raise DataError(f"got an empty split {split!r} in {path}; expected one image id a line")
        return list(ids)

    def image_paths(self, ids: Sequence[str], *, split: str) -> list[Path]:
        """The image of each id. Raises DataError naming the first ids that have none, or more than one."""
        return self._one_each(ids, self.images, split=split, kind="image", folder=self.image_folder)

    def annotation_paths(self, ids: Sequence[str], *, split: str) -> list[Path]:
        """The annotation of each id. Raises DataError naming the first ids that have none, or more than one."""
        if not self.annotation_folder.is_dir():
            raise DataError(f"got no folder Annotations in {self.root}; expected one, which split {split!r} needs")
        return self._one_each(ids, self.annotations, split=split, kind="annotation", folder=self.annotation_folder)

    def _one_each(
        self, ids: Sequence[str], files: dict[str, list[Path]], *, split: str, kind: str, folder: Path
    ) -> list[Path]:
        source = self.lists[split]
        missing = [image_id for image_id in ids if image_id not in files]
        if missing:
            near = did_you_mean(missing[0], files)
            raise DataError(
                f"got {len(missing)} ids in {source} without an {kind} in {folder}: {listed(missing)};"
                f" expected an {kind} for each{near}"
            )
        doubled = [image_id for image_id in ids if len(files[image_id]) > 1]
        if doubled:
            names = " and ".join(path.name for path in files[doubled[0]])
            raise DataError(
                f"got {len(doubled)} ids in {source} with several files in {folder}: {listed(doubled)} ({names});"
                f" expected one {kind} for each"
            )
        return [files[image_id][0] for image_id in ids]

    def label_file(self, class_name: str, split: str) -> Path | None:
        """`<class>_<split>.txt`; class *train* in split train is `train_train.txt`."""
        return self.lists.get(f"{class_name}_{split}")

    def label_file_classes(self, split: str) -> list[str]:
        """Classes that have a label file for this split, sorted.

        A file belongs to the longest split name that it ends with: `dog_a_train.txt` is class dog of
        split `a_train` where there is one, and class `dog_a` of split `train` where there is not.
        """
        ending = f"_{split}"
        longer = tuple(f"_{name}" for name in self.split_names if name.endswith(ending))
        return [
            name.removesuffix(ending)
            for name, path in self.lists.items()
            if name.endswith(ending) and name != ending and not name.endswith(longer) and is_label_file(path)
        ]


def check_layout(root: Path, *, splits: Sequence[str], boxes_in: Sequence[str] = ()) -> None:
    """Whether the folders and split files are there. Cheap: lists folders, opens no annotation and no image.

    Args:
        root: the data set's folder.
        splits: names of splits to be read.
        boxes_in: those of them that will be evaluated, which needs annotations.

    Raises:
        DataError: names what is missing, where, and the nearest name that is there.
    """
    folder = VocFolder(root)
    for split in (*splits, *boxes_in):
        folder.split_file(split)
    if folder.annotation_folder.is_dir():
        return
    for split in boxes_in:
        raise DataError(f"got no folder Annotations in {root}; expected one, with the boxes of split {split!r}")
    for split in splits:
        if not folder.label_file_classes(split):
            raise DataError(
                f"got neither a folder Annotations nor label files for split {split!r} in {root}; expected one of them"
            )


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text without surrounding blanks) of the lines that are not blank.

    Any line ending, with or without a byte-order mark.

    Raises:
        DataError: the file is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"got no UTF-8 text in {path} ({error}); expected one image id a line") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def is_label_file(path: Path) -> bool:
    """Whether the first line ends in a label: `<id> 1`. (A split file has ids alone.)"""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    columns = first.split()
    return len(columns) > 1 and columns[-1] in LABEL_VALUES


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no name is near."""
    known = list(known)
    without_extension = os.path.splitext(name)[0]
    if without_extension in known:
        return f"; did you mean {without_extension!r} (ids and splits have no extension)?"
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""


def _files_by_stem(folder: Path, extensions: tuple[str, ...]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() in extensions and entry.is_file():
                files.setdefault(stem, []).append(folder / entry.name)
    return files


def _is_voc_layout(folder: Path) -> bool:
    # os.path: a folder that may not be entered is no hint, and no error either
    return os.path.isdir(folder / "JPEGImages") and os.path.isdir(folder / "ImageSets" / "Main")


def _did_you_mean_root(root: Path) -> str:
    """The layout folder below (VOCdevkit given, VOCdevkit/VOC2007 meant) or above (JPEGImages given) this one."""
    below = (path for pattern in ("*/", "*/*/") for path in islice(root.glob(pattern), _MAX_FOLDERS_SEARCHED))
    for candidate in (*sorted(below), *root.absolute().parents[:2]):
        if _is_voc_layout(candidate):
            return f"; did you mean {candidate}?"
    return ""


def _did_you_mean_folder(missing: Path) -> str:
    """The folder beside it whose name is nearest; or how much of the path there is."""
    parent = missing.parent
    if parent.is_dir():
        return did_you_mean(
            missing.name, (path.name for path in parent.iterdir() if path.name[0] != "." and os.path.isdir(path))
        )
    existing = next((folder for folder in parent.parents if folder.is_dir()), None)
    return f"; of this path only {existing.absolute()} exists" if existing else ""
