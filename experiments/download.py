"""`python runner.py data voc2007 --root DIR`: the download with a progress bar."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Never

from tqdm import tqdm

from wsol.data.voc2007 import DownloadError, download, is_complete


def download_voc2007(root: Path) -> int:
    """Downloads, checks and extracts VOC 2007.

    Returns:
        The exit status: 0 the data set is there, 1 it could not be had this time.
    """
    folder = root / "VOCdevkit" / "VOC2007"
    if is_complete(root):
        print(f"{folder} is complete, nothing to do")
        return 0
    bar = _Bar()
    try:
        download(root, on_progress=bar.show)
    except DownloadError as error:
        bar.close()
        print(f"error: {error}", file=sys.stderr)
        return 1
    bar.close()
    print(f"{folder} is complete; name it in a sweep as  data: {{root: {folder}}}")
    return 0


class _Bar:
    """One bar after another, a bar a step."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: tqdm[Never] | None = None

    def show(self, step: str, done: int, total: int | None) -> None:
        if step != self._step or self._bar is None:
            self.close()
            self._step = step
            self._bar = tqdm(desc=step, unit="B", unit_scale=True, unit_divisor=1024)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
