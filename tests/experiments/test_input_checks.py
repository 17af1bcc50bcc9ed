from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import SpecError
from experiments.input_checks import check_inputs
from experiments.spec import SweepSpec

Load = Callable[[str], SweepSpec]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A folder in VOC layout with the splits train and val, without images."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("000001\n")
    return root


@pytest.fixture
def problem(load: Load) -> Callable[[str], str]:
    """Spec -> what is missing, less the folder of the spec."""

    def check(text: str) -> str:
        spec = load(text)
        with pytest.raises(SpecError, match=r"sweep\.yaml:\d+: ") as error:
            check_inputs(spec)
        return str(error.value).replace(f"{spec.file.parent}/", "")

    return check


def with_data(data: str, rest: str = "") -> str:
    return f"experiment:\n  task: wsddn\n  model: {{backbone: tiny, weights: none}}\n  data:\n    {data}\n{rest}"


class TestData:
    def test_what_is_there(self, load: Load, voc: Path) -> None:
        check_inputs(load(with_data(f"root: {voc}")))
        check_inputs(load("{EXPERIMENT}\n"))

    def test_no_such_folder(self, problem: Callable[[str], str], voc: Path) -> None:
        message = problem(with_data(f"root: {voc.parent / 'vco'}"))
        assert message.startswith("sweep.yaml:5: data.root: got no folder at vco; expected ")
        assert message.endswith("; did you mean 'voc'?")

    def test_the_folder_above(self, problem: Callable[[str], str], voc: Path) -> None:
        message = problem(with_data(f"root: {voc.parent}"))
        assert message.startswith("sweep.yaml:5: data.root: got no folder JPEGImages in ")
        assert message.endswith("expected VOC layout; did you mean voc?")

    def test_voc_2007_can_be_downloaded(self, problem: Callable[[str], str], tmp_path: Path) -> None:
        message = problem(with_data(f"root: {tmp_path / 'data' / 'VOCdevkit' / 'VOC2007'}"))
        assert message.endswith("; to download it: python runner.py data voc2007 --root data")

    @pytest.mark.parametrize(("key", "other"), [("train", "eval"), ("eval", "train")])
    def test_no_such_split(self, problem: Callable[[str], str], voc: Path, key: str, other: str) -> None:
        message = problem(with_data(f"root: {voc}\n    {other}: train\n    {key}: trian"))
        assert message.startswith(f"sweep.yaml:7: data.{key}: got no split 'trian' in voc/ImageSets/Main; expected ")
        assert message.endswith("; did you mean 'train'?")

    def test_annotations_are_needed_to_evaluate(self, problem: Callable[[str], str], voc: Path) -> None:
        (voc / "Annotations").rmdir()
        (voc / "ImageSets" / "Main" / "cat_train.txt").write_text("000001 1\n")
        message = problem(with_data(f"root: {voc}\n    eval: val"))
        assert message.startswith("sweep.yaml:6: data.eval: got no folder Annotations in voc")

    def test_the_splits_of_digits(self, problem: Callable[[str], str]) -> None:
        assert problem(with_data("root: digits\n    train: tarin")) == (
            "sweep.yaml:6: data.train: got split 'tarin' of the digits data set; "
            "expected one of train, val, trainval, test; did you mean train?"
        )

    def test_a_swept_value_is_blamed_where_it_stands(self, problem: Callable[[str], str], voc: Path) -> None:
        search = f"search:\n  - grid:\n      data.root:\n        - {voc}\n        - {voc}2\n        - {voc}3\n"
        assert problem(with_data("root: digits", search)).startswith("sweep.yaml:10: data.root: got no folder at voc2")

    @pytest.mark.parametrize("root", ["x" * 5000, '"a\\0b"', "/dev/null"])
    def test_names_that_no_file_system_takes(self, problem: Callable[[str], str], root: str) -> None:
        assert problem(with_data(f"root: {root}")).startswith("sweep.yaml:5: data.root: ")


class TestFiles:
    def test_weights(self, load: Load, problem: Callable[[str], str], tmp_path: Path) -> None:
        text = f"{{EXPERIMENT}}\nsearch:\n  - grid: {{model.weights: [none, {tmp_path}/tiny.pth]}}\n"
        assert problem(text) == "sweep.yaml:6: model.weights: no such file: tiny.pth"
        (tmp_path / "tiny.pth").touch()
        check_inputs(load(text))

    def test_a_folder_is_no_weights_file(self, problem: Callable[[str], str], tmp_path: Path) -> None:
        (tmp_path / "tiny.pth").mkdir()
        text = f"{{EXPERIMENT}}\nsearch:\n  - grid: {{model.weights: [{tmp_path}/tiny.pth]}}\n"
        assert problem(text) == "sweep.yaml:6: model.weights: no such file: tiny.pth"

    def test_proposals(self, load: Load, problem: Callable[[str], str], tmp_path: Path) -> None:
        text = f"{{EXPERIMENT}}\n  proposals:\n    source: file\n    file: {tmp_path}/boxes.npz\n"
        assert problem(text) == "sweep.yaml:7: proposals.file: no such file: boxes.npz"
        (tmp_path / "boxes.npz").touch()
        check_inputs(load(text))


class TestObjective:
    @pytest.mark.parametrize(
        ("data", "given", "message"),
        [
            ("root: digits", "digit_11", "expected mean or one of digit_0, digit_1, "),
            ("root: digits\n    classes: [cat, dog]", "cot", "expected mean or one of cat, dog; did you mean cat?"),
            ("root: {voc}\n    classes: voc", "dgo", "did you mean dog?"),
        ],
    )
    def test_of_an_unknown_class(
        self, problem: Callable[[str], str], voc: Path, data: str, given: str, message: str
    ) -> None:
        text = with_data(data.replace("{voc}", str(voc)), f"objective: {{metric: cls_ap/{given}}}\n")
        found = problem(text)
        assert f"got class '{given}' in objective.metric; " in found
        assert message in found

    @pytest.mark.parametrize(
        ("data", "given"),
        [
            ("root: digits", "digit_3"),
            ("root: digits", "mean"),
            ("root: digits\n    classes: [cat, a/b]", "a/b"),
            ("root: {voc}\n    classes: voc", "tvmonitor"),
            ("root: {voc}", "only the data know"),
        ],
    )
    def test_of_a_known_class(self, load: Load, voc: Path, data: str, given: str) -> None:
        check_inputs(load(with_data(data.replace("{voc}", str(voc)), f"objective: {{metric: cls_ap/{given}}}\n")))


def test_a_misspelt_digits_is_known_for_what_it_is(load: Load) -> None:
    spec = load("experiment:\n  task: wsddn\n  data: {root: dgits}\n  model: {backbone: tiny, weights: none}\n")
    with pytest.raises(SpecError, match=r"got no folder at dgits; .* or digits; did you mean digits\?$"):
        check_inputs(spec)
