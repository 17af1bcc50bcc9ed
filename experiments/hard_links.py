"""Folders that share their files: hard links where the file system can, copies where it cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from wsol.checkpoint_files import checkpoint_files


def share_folder(source: Path, target: Path, *, growing: str, shrinking: str) -> None:
    """Makes `target` with the files of `source`, but for temporary ones, whose names begin with a dot.

    Args:
        target: does not exist.
        growing: name of the file that is copied, as more may be written into it.
        shrinking: name of the folder of checkpoints, which others may shrink meanwhile.
    """

    def share(file: str, to: str) -> None:
        if os.path.basename(file) != growing:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(file, to)
                return
        shutil.copy2(file, to)

    shutil.copytree(source, target, copy_function=share, ignore=shutil.ignore_patterns(".*", shrinking))
    (target / shrinking).mkdir()
    while new := _names(source / shrinking) - _names(target / shrinking):
        for name in new:  # what replaces one that goes is there before: another look finds it
            with contextlib.suppress(FileNotFoundError):
                share(str(source / shrinking / name), str(target / shrinking / name))


def _names(folder: Path) -> set[str]:
    return {file.path.name for file in checkpoint_files(folder)}
