"""What tells two versions of the source, the packages and the data apart, and what does not."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from experiments.code_version import (
    REPOSITORY,
    CodeVersion,
    Part,
    code_unknown,
    computes,
    data_parts,
    differences,
    inputs_of,
    present_version,
    source_files,
    source_of,
)
from wsol.config import ExperimentConfig
from wsol.data.digits import generate

VERSION = CodeVersion(
    files={"runner.py": "r", "experiments/worker.py": "w", "wsol/a.py": "a", "wsol/data/b.py": "b"},
    packages={"python": "3.11.7", "torch": "2.15.0", "scipy": ""},
    data={"data/JPEGImages": Part(3, "j"), "data/ImageSets": Part(1, "s")},
)


def config(**sections: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"task": "wsddn", "data": {"root": "digits"}, **sections})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("runner.py", "pyproject.toml", "experiments/worker.py", "wsol/__init__.py", "wsol/data/voc.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


class TestSource:
    def test_is_all_that_a_run_needs(self, repository: Path) -> None:
        assert list(source_files(repository)) == sorted(
            ["runner.py", "pyproject.toml", "experiments/worker.py", "wsol/__init__.py", "wsol/data/voc.py"]
        )

    def test_of_this_repository(self) -> None:
        names = source_files(REPOSITORY).keys()
        assert {"runner.py", "experiments/executors/local.py", "wsol/metrics/names.py"} <= names
        assert not [name for name in names if name.startswith("tests/")]

    @pytest.mark.parametrize("name", ["wsol/.#voc.py", "wsol/.hidden/voc.py", "wsol/notes.txt", "other/x.py"])
    def test_is_not_what_lies_around(self, repository: Path, name: str) -> None:
        before = source_files(repository)
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).symlink_to("nowhere") if "#" in name else (repository / name).write_text("")
        assert source_files(repository) == before

    @pytest.mark.parametrize("name", ["wsol/__init__.py", "wsol/data/voc.py", "experiments/worker.py"])
    def test_a_byte_of_what_computes(self, repository: Path, name: str) -> None:
        before = source_of(repository)
        with (repository / name).open("a") as file:
            file.write(" ")
        assert source_of(repository) != before

    def test_a_file_more_a_file_less_another_name(self, repository: Path) -> None:
        sources = {source_of(repository)}
        (repository / "wsol" / "new.py").write_text("")
        sources.add(source_of(repository))
        (repository / "wsol" / "new.py").rename(repository / "wsol" / "newer.py")
        sources.add(source_of(repository))
        (repository / "wsol" / "newer.py").unlink()
        (repository / "wsol" / "data" / "voc.py").unlink()
        sources.add(source_of(repository))
        assert len(sources) == 4

    def test_what_schedules_and_reports_is_no_part_of_it(self, repository: Path) -> None:
        before = source_of(repository)
        (repository / "runner.py").write_text("")
        (repository / "experiments" / "view.py").write_text("")
        assert source_of(repository) == before

    def test_a_copy_elsewhere_is_the_same(self, repository: Path) -> None:
        shutil.copytree(repository / "wsol", repository / "copy" / "wsol")
        shutil.copytree(repository / "experiments", repository / "copy" / "experiments")
        assert source_of(repository / "copy") == source_of(repository)

    def test_what_computes(self) -> None:
        assert [
            name for name in ("wsol/a.py", "wsolx/a.py", "experiments/worker.py", "runner.py") if computes(name)
        ] == [
            "wsol/a.py",
            "experiments/worker.py",
        ]


class TestPresent:
    def test_names_what_is_installed(self) -> None:
        found = present_version([config()])
        assert found.packages["python"] == platform.python_version()
        assert found.packages["torch"] == version("torch")
        assert "scipy" in found.packages
        assert found.source == source_of(REPOSITORY)

    def test_the_generated_data_have_no_parts(self) -> None:
        assert present_version([config()]).data == {}

    def test_all_inputs_of_all_trials(self, tmp_path: Path) -> None:
        boxes, weights = tmp_path / "boxes.npz", tmp_path / "w.pth"
        boxes.write_bytes(b"123")
        weights.write_bytes(b"12")
        configs = [
            config(proposals={"source": "file", "file": str(boxes)}),
            config(data={"root": str(tmp_path / "VOC")}, model={"backbone": "tiny", "weights": str(weights)}),
        ]
        assert [inputs_of(one) for one in configs] == [[str(boxes)], [str(tmp_path / "VOC"), str(weights)]]
        assert list(present_version(configs).data) == [str(boxes), str(tmp_path / "VOC"), str(weights)]


class TestData:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        generate(tmp_path / "data", seed=0, train=3, val=2, test=1, image_px=48)
        return tmp_path / "data"

    def test_files_are_counted(self, root: Path) -> None:
        found = {Path(path).name: part.files for path, part in data_parts(str(root)).items()}
        assert found.pop("ImageSets") > 0
        assert found == {"JPEGImages": 6, "Annotations": 6}

    def test_it_is_the_same_again(self, root: Path) -> None:
        assert data_parts(str(root)) == data_parts(str(root))

    @staticmethod
    def changed_part(root: Path, change: Callable[[], object]) -> str:
        before = data_parts(str(root))
        change()
        (changed,) = (path for path, part in data_parts(str(root)).items() if part != before[path])
        return changed.removeprefix(f"{root}/")

    def test_a_byte_of_a_split_file(self, root: Path) -> None:
        split = root / "ImageSets" / "Main" / "train.txt"
        swapped = split.read_text().splitlines()[::-1]
        assert self.changed_part(root, lambda: split.write_text("\n".join(swapped) + "\n")) == "ImageSets"

    @pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
    @pytest.mark.parametrize("change", ["size", "name", "gone", "new"])
    def test_sizes_and_names_of_the_others(self, root: Path, folder: str, change: str) -> None:
        file = sorted((root / folder).iterdir())[0]
        changes: dict[str, Callable[[], object]] = {
            "size": lambda: file.write_bytes(file.read_bytes() + b" "),
            "name": lambda: file.rename(file.with_name("other")),
            "gone": file.unlink,
            "new": lambda: shutil.copy(file, file.with_name("copy")),
        }
        assert self.changed_part(root, changes[change]) == folder

    def test_what_is_read_of_an_image_is_its_size_alone(self, root: Path) -> None:
        """It is what a look at ten thousand images costs less than a second with."""
        before = data_parts(str(root))
        image = sorted((root / "JPEGImages").iterdir())[0]
        image.write_bytes(b"\0" * image.stat().st_size)
        assert data_parts(str(root)) == before

    def test_a_link_that_leads_nowhere(self, root: Path) -> None:
        assert self.changed_part(root, lambda: os.symlink("nowhere", root / "JPEGImages" / "x.jpg")) == "JPEGImages"

    def test_a_folder_that_is_not_there(self, root: Path) -> None:
        assert self.changed_part(root, lambda: shutil.rmtree(root / "Annotations")) == "Annotations"
        assert data_parts(str(root))[f"{root}/Annotations"].files == 0

    def test_a_file(self, tmp_path: Path) -> None:
        file = str(tmp_path / "boxes.npz")
        assert data_parts(file) == {file: Part(0, "")}
        Path(file).write_bytes(b"1")
        one = data_parts(file)[file]
        Path(file).write_bytes(b"12")
        two = data_parts(file)[file]
        assert (one.files, two.files) == (1, 1)
        assert one != two


class TestDifferences:
    def test_none(self) -> None:
        assert differences(VERSION, VERSION) == []

    def test_of_everything_in_words(self) -> None:
        now = CodeVersion(
            files={"runner.py": "other", "experiments/worker.py": "w2", "wsol/data/b.py": "b", "wsol/c.py": "c"},
            packages={"python": "3.12.0", "torch": "", "scipy": "1.14.0"},
            data={"data/JPEGImages": Part(4, "j2"), "data/ImageSets": Part(1, "s2")},
        )
        assert differences(VERSION, now) == [
            "experiments/worker.py changed",
            "wsol/a.py is gone",
            "wsol/c.py is new",
            "python 3.11.7 -> 3.12.0",
            "torch 2.15.0 -> not installed",
            "scipy not installed -> 1.14.0",
            "data/JPEGImages: 3 -> 4 files",
            "data/ImageSets changed",
        ]

    def test_data_that_only_one_looked_at(self) -> None:
        """A spec gains a folder and loses it again."""
        more = replace(VERSION, data={**VERSION.data, "new/JPEGImages": Part(1, "n")})
        assert differences(VERSION, more) == differences(more, VERSION) == []


class TestOfTrial:
    def test_three_parts(self) -> None:
        code = VERSION.of_trial(config())
        assert [len(part) for part in code.split("-")] == [12, 12, 12]
        assert code.startswith(VERSION.source[:12])

    @pytest.mark.parametrize(
        ("part", "changes"),
        [
            (0, {"files": {**VERSION.files, "wsol/a.py": "a2"}}),
            (1, {"packages": {**VERSION.packages, "torch": "2.16.0"}}),
            (2, {"data": {**VERSION.data, "data/JPEGImages": Part(3, "j2")}}),
        ],
    )
    def test_each_stands_for_itself(self, part: int, changes: dict[str, Any]) -> None:
        trial = config(data={"root": "data"})
        before = VERSION.of_trial(trial).split("-")
        after = replace(VERSION, **changes).of_trial(trial).split("-")
        assert [one != other for one, other in zip(before, after, strict=True)] == [index == part for index in range(3)]
        assert replace(VERSION, **changes).fingerprint != VERSION.fingerprint

    def test_data_of_other_trials_do_not_matter(self) -> None:
        changed = replace(VERSION, data={"data/JPEGImages": Part(9, "x"), "boxes.npz": Part(1, "b")})
        assert changed.of_trial(config()) == VERSION.of_trial(config())
        reads_a_file = config(proposals={"source": "file", "file": "boxes.npz"})
        assert changed.of_trial(reads_a_file) != VERSION.of_trial(reads_a_file)

    def test_of_one_that_nobody_knows(self) -> None:
        assert code_unknown(config()) == ""


def test_the_fingerprint_can_be_a_generation() -> None:
    assert config(code=VERSION.fingerprint).code == VERSION.fingerprint
