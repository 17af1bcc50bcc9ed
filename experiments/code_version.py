"""What computes a result, as far as it can be told apart by what is on disk: source, packages, data."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.environment import package_version
from wsol.config import DIGITS_ROOT, ExperimentConfig

REPOSITORY = Path(__file__).resolve().parent.parent
"""The folder of the source that this process runs."""

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-contrib-python-headless",
    "pillow",
    "scipy",
    "scikit-learn",
)
"""Those whose code has a part in a result."""

CodeOf = Callable[[ExperimentConfig], str]
"""What a trial of a config runs, see `CodeVersion.of_trial`; empty where nobody knows."""

_ROOT_FOLDERS = ("ImageSets", "JPEGImages", "Annotations")
_DIGITS = 12


@dataclass(frozen=True)
class Part:
    """Files of a data set.

    Attributes:
        files: how many.
        sha256: of the bytes of split files; of the names and sizes of all others.
    """

    files: int
    sha256: str


@dataclass(frozen=True)
class CodeVersion:
    """Results are comparable where all three are the same.

    Attributes:
        files: sha256 of every file that a run of the command needs, by name relative to the repository. Only some of
            them compute results, see `source`: another order of trials or another table changes none.
        packages: version by name, Python included; empty for one that is not installed.
        data: by path, see `data_parts`.
    """

    files: Mapping[str, str]
    packages: Mapping[str, str]
    data: Mapping[str, Part]

    @cached_property
    def source(self) -> str:
        """64 hex digits: the hash of the names and contents of the files that compute results."""
        return _hash(f"{name} {self.files[name]}" for name in sorted(filter(computes, self.files)))

    @property
    def fingerprint(self) -> str:
        """12 hex digits of a hash over all three."""
        return _hash([self.source, *_package_lines(self.packages), *_data_lines(self.data, self.data)])[:_DIGITS]

    def of_trial(self, config: ExperimentConfig) -> str:
        """What a trial is trained with: `<source>-<packages>-<data>`, 12 hex digits each. Its own data alone count."""
        paths = [path for given in inputs_of(config) for path in (given, *_folders(given))]
        hashes = (self.source, _hash(_package_lines(self.packages)), _hash(_data_lines(self.data, paths)))
        return "-".join(digits[:_DIGITS] for digits in hashes)


def present_version(configs: Iterable[ExperimentConfig], *, repository: Path = REPOSITORY) -> CodeVersion:
    """What would compute results now.

    Args:
        configs: of the trials; their data are looked at.
    """
    paths = dict.fromkeys(path for config in configs for path in inputs_of(config))
    return CodeVersion(
        files=source_files(repository),
        packages={"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        data={name: part for path in paths for name, part in data_parts(path).items()},
    )


def code_unknown(_config: ExperimentConfig) -> str:
    """A `CodeOf` for sweeps of which nobody asks."""
    return ""


def source_files(repository: Path) -> dict[str, str]:
    """The sha256 of every file that a run of the command needs, by relative name, sorted."""
    names = [*("runner.py", "pyproject.toml"), *_modules(repository, "experiments"), *_modules(repository, "wsol")]
    files = {name: repository / name for name in sorted(names)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def source_of(repository: Path) -> str:
    """See `CodeVersion.source`."""
    return CodeVersion(files=source_files(repository), packages={}, data={}).source


def computes(name: str) -> bool:
    """Whether a file of the repository has a part in the result of a trial."""
    return name.startswith("wsol/") or name == "experiments/worker.py"


def inputs_of(config: ExperimentConfig) -> list[str]:
    """The data folders and files that a trial reads, as its config names them.

    The generated data set is none: it follows from the source.
    """
    weights = config.model.weights
    given = [
        config.data.root if config.data.root != DIGITS_ROOT else None,
        config.proposals.file,
        weights if weights not in ("imagenet", "none") else None,
    ]
    return [path for path in given if path is not None]


def data_parts(path: str) -> dict[str, Part]:
    """What is told of a data folder or file, by path.

    Of a folder in VOC layout: its split files byte by byte; its images and annotations by name and size alone, since
    reading them would take minutes: an image that is changed and keeps its size is not noticed. So it is of a file.
    What is not there counts as a part of no files.
    """
    if not Path(path).is_dir():
        size = _size(path)
        return {path: Part(0, "") if size is None else Part(1, _hash([f"{Path(path).name} {size}"]))}
    splits = sorted((Path(path) / "ImageSets").rglob("*.txt"))
    read = [f"{file.relative_to(path).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in splits]
    listed = {f"{path}/{name}": _listing(Path(path) / name) for name in _ROOT_FOLDERS[1:]}
    return {f"{path}/{_ROOT_FOLDERS[0]}": Part(len(read), _hash(read)), **listed}


def differences(before: CodeVersion, now: CodeVersion) -> list[str]:
    """What has changed, a line each, for people: source, then packages, then data.

    A package or data that only one of the two looked at says nothing.
    """
    names = sorted(filter(computes, before.files.keys() | now.files.keys()))
    changed = [name for name in names if before.files.get(name) != now.files.get(name)]
    return [
        *(f"{name} {_fate(name, before.files, now.files)}" for name in changed),
        *(
            f"{name} {old or 'not installed'} -> {now.packages[name] or 'not installed'}"
            for name, old in before.packages.items()
            if now.packages.get(name, old) != old
        ),
        *(_data_line(path, old, now.data[path]) for path, old in before.data.items() if now.data.get(path, old) != old),
    ]


def _fate(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in before:
        return "is new"
    return "changed" if name in now else "is gone"


def _data_line(path: str, old: Part, new: Part) -> str:
    return f"{path} changed" if old.files == new.files else f"{path}: {old.files} -> {new.files} files"


def _modules(repository: Path, package: str) -> Iterator[str]:
    """Hidden files are left out: editors keep their own there."""
    for file in (repository / package).rglob("*.py"):
        name = file.relative_to(repository)
        if not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def _folders(path: str) -> Iterator[str]:
    return (f"{path}/{name}" for name in _ROOT_FOLDERS)


def _listing(folder: Path) -> Part:
    try:
        with os.scandir(folder) as found:
            lines = sorted(f"{entry.name} {_size(entry.path)}" for entry in found if not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return Part(0, "")
    return Part(len(lines), _hash(lines))


def _size(path: str) -> int | None:
    """In bytes; None where there is no such file, as behind a link that leads nowhere."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _package_lines(packages: Mapping[str, str]) -> list[str]:
    return [f"{name} {packages[name]}" for name in sorted(packages)]


def _data_lines(data: Mapping[str, Part], paths: Iterable[str]) -> list[str]:
    return [f"{path} {data[path].files} {data[path].sha256}" for path in sorted(set(paths)) if path in data]


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")).hexdigest()
