"""The published MATLAB layouts and the .npz layout, whole and damaged."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from wsol.data import proposal_files
from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_files import ProposalFile
from wsol.data.proposal_formats import read_proposal_file, write_proposal_npz
from wsol.data.proposals import Proposals

MATLAB = {
    "000005": [[11, 21, 30, 60], [1, 1, 375, 500]],
    "000007": [],
    "000009": [[5, 7, 5, 7]],
}
"""y1 x1 y2 x2, 1-based and inclusive, as in the published files. The last is one pixel."""
CONVERTED = {
    "000005": [[20, 10, 60, 30], [0, 0, 500, 375]],
    "000007": np.empty((0, 4)),
    "000009": [[6, 4, 7, 5]],
}
"""x1 y1 x2 y2, 0-based and continuous."""
SCORES = {"000005": [0.25, 0.75], "000007": [], "000009": [0.5]}


def cell(values: list[object], *, column: bool) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(-1, 1) if column else array.reshape(1, -1)


def matrices(dtype: type = np.float64) -> list[object]:
    return [np.array(rows, dtype=dtype) if rows else np.empty((0, 0)) for rows in MATLAB.values()]


def score_columns() -> list[object]:
    return [np.array(values, dtype=np.float64).reshape(-1, 1) for values in SCORES.values()]


def selective_search_layout(path: Path) -> None:
    savemat(path, {"images": cell(list(MATLAB), column=True), "boxes": cell(matrices(), column=False)})


def edge_boxes_layout(path: Path) -> None:
    variables = {
        "images": cell(list(MATLAB), column=False),
        "boxes": cell(matrices(), column=False),
        "boxScores": cell(score_columns(), column=False),
    }
    savemat(path, variables)


def columns_layout(path: Path) -> None:
    variables = {
        "images": cell(list(MATLAB), column=True),
        "boxes": cell(matrices(np.uint16), column=True),
        "boxScores": cell(score_columns(), column=True),
    }
    savemat(path, variables, do_compression=True)


def char_matrix_layout(path: Path) -> None:
    savemat(path, {"images": np.array(list(MATLAB)), "boxes": cell(matrices(np.float32), column=False)})


def file_names_layout(path: Path) -> None:
    names: list[object] = ["JPEGImages/000005.jpg", "000007.JPEG ", "000009.png"]
    savemat(path, {"images": cell(names, column=False), "boxes": cell(matrices(), column=False)})


LAYOUTS: list[tuple[Callable[[Path], None], bool]] = [
    (selective_search_layout, False),
    (edge_boxes_layout, True),
    (columns_layout, True),
    (char_matrix_layout, False),
    (file_names_layout, False),
]


def assert_is_the_example(proposals: dict[str, Proposals], *, scored: bool) -> None:
    assert list(proposals) == list(CONVERTED)
    for image_id, expected in CONVERTED.items():
        assert proposals[image_id].boxes.dtype == np.float32
        np.testing.assert_array_equal(proposals[image_id].boxes, expected)
        if scored:
            np.testing.assert_array_equal(proposals[image_id].scores, np.float32(SCORES[image_id]))
        else:
            assert proposals[image_id].scores is None


@pytest.mark.parametrize(("write", "scored"), LAYOUTS)
def test_layouts_with_ids(tmp_path: Path, write: Callable[[Path], None], scored: bool) -> None:
    write(tmp_path / "file.mat")
    assert_is_the_example(read_proposal_file(tmp_path / "file.mat"), scored=scored)


def write_without_ids(path: Path) -> None:
    savemat(path, {"boxes": cell(matrices(), column=False)})


def test_the_fast_rcnn_layout_takes_its_ids_from_the_split(tmp_path: Path) -> None:
    path = tmp_path / "voc_2007_trainval.mat"
    write_without_ids(path)
    assert_is_the_example(read_proposal_file(path, ids=list(MATLAB)), scored=False)
    with pytest.raises(DataError, match=r"got no variable 'images' in .*voc_2007_trainval\.mat; expected ids"):
        read_proposal_file(path)
    with pytest.raises(DataError, match="got 3 cells in 'boxes' and 2 ids in the split file in .*; expected as many"):
        read_proposal_file(path, ids=["000005", "000007"])


def test_one_image_is_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "one.mat"
    savemat(path, {"images": cell(["a"], column=False), "boxes": cell([np.array([[1, 2, 3, 4.0]])], column=False)})
    np.testing.assert_array_equal(read_proposal_file(path)["a"].boxes, [[1, 0, 4, 3]])


def not_finite(image_id: str) -> str:
    return f"got a box or a score that is not finite for image '{image_id}'"


def with_changes(**changes: object) -> dict[str, object]:
    variables: dict[str, object] = {
        "images": cell(list(MATLAB), column=False),
        "boxes": cell(matrices(), column=False),
        "boxScores": cell(score_columns(), column=False),
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": None}, "got no variable 'boxes' in .*; expected a cell array"),
        ({"boxes": np.ones((5, 4))}, r"got float64 \(5, 4\) for 'boxes' in .*; expected a 1 x N or N x 1 cell array"),
        ({"boxes": cell([np.ones((2, 5))] * 3, column=False)}, r"\(2, 5\) for the boxes of image '000005'"),
        ({"boxes": cell(["text"] * 3, column=False)}, "for the boxes of image '000005' in .*; expected K x 4 numbers"),
        ({"boxes": cell(matrices()[:2], column=False)}, "got 2 cells in 'boxes' and 3 ids in 'images'"),
        ({"images": cell(["a", "b", "a"], column=False)}, "got image id 'a' twice"),
        ({"images": cell(["a", 5.0, "c"], column=False)}, r"got float64 \(1, 1\) in images\{2\} in .*; expected an id"),
        ({"boxScores": cell(score_columns()[:2], column=False)}, "got 2 cells in 'boxScores' in .*; expected 3"),
        ({"boxScores": cell([np.ones((1, 1))] * 3, column=False)}, "for the scores of image '000005' .*expected 2"),
        ({"boxScores": cell([np.full((2, 1), np.nan)] * 3, column=False)}, not_finite("000005")),
        (
            {"boxes": cell([np.array([[30, 21, 11, 60.0]])] * 3, column=False), "boxScores": None},
            r"got box \[20.0, 29.0, 60.0, 11.0\] .* in row 1 of image '000005' in .*; expected x1 < x2 and y1 < y2",
        ),
        (
            {"boxes": cell([np.array([[1, 1, 2, np.inf]])] * 3, column=False), "boxScores": None},
            not_finite("000005"),
        ),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    savemat(tmp_path / "odd.mat", with_changes(**changes))
    with pytest.raises(DataError, match=message) as raised:
        read_proposal_file(tmp_path / "odd.mat")
    assert str(tmp_path / "odd.mat") in str(raised.value)


def test_ids_for_a_file_that_has_its_own_are_refused(tmp_path: Path) -> None:
    selective_search_layout(tmp_path / "a.mat")
    write_proposal_npz(tmp_path / "a.npz", {})
    for name in ("a.mat", "a.npz"):
        with pytest.raises(DataError, match="which has its own.*expected none"):
            read_proposal_file(tmp_path / name, ids=list(MATLAB))


def test_matlab_7_3_says_what_to_do(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(400))
    with pytest.raises(DataError, match=r"got MATLAB 7\.3 .* in .*new\.mat; .* save it with save\(\.\.\., '-v7'\)"):
        read_proposal_file(tmp_path / "new.mat")


def refusal(path: Path, content: bytes) -> str | None:
    """The message of the DataError, or None where the file could be read. Other errors pass."""
    path.write_bytes(content)
    try:
        read_proposal_file(path)
    except DataError as error:
        return str(error)
    return None


def test_a_cut_mat_file_is_refused(tmp_path: Path) -> None:
    edge_boxes_layout(tmp_path / "whole.mat")
    whole = (tmp_path / "whole.mat").read_bytes()
    answers = [refusal(tmp_path / "cut.mat", whole[:length]) for length in range(0, len(whole), 31)]
    assert all("cut.mat" in answer for answer in answers if answer is not None)
    # Cut between two variables, a file is sound: then only 'boxScores', the last, may be lost.
    assert answers.count(None) <= 1


@pytest.mark.parametrize("content", [b"", b"not a MATLAB file", b"\x93NUMPY" + bytes(500), bytes(1000)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "got a damaged or unreadable file in" in str(refusal(tmp_path / "other.mat", content))


@pytest.mark.parametrize("scored", [True, False])
def test_npz_round_trip(tmp_path: Path, scored: bool) -> None:
    proposals = {
        image_id: Proposals(
            np.array(boxes, dtype=np.float32).reshape(-1, 4) + np.float32(0.25),
            np.array(SCORES[image_id], dtype=np.float32) if scored else None,
        )
        for image_id, boxes in CONVERTED.items()
    }
    write_proposal_npz(tmp_path / "a.npz", proposals)
    again = read_proposal_file(tmp_path / "a.npz")
    assert list(again) == list(proposals)
    for image_id, value in proposals.items():
        np.testing.assert_array_equal(again[image_id].boxes, value.boxes)
        if scored:
            np.testing.assert_array_equal(again[image_id].scores, value.scores)
        else:
            assert again[image_id].scores is None
    write_proposal_npz(tmp_path / "b.npz", proposals)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_npz_from_other_programs(tmp_path: Path) -> None:
    """What docs/proposals.md promises to read: other dtypes, no compression."""
    arrays = {"ids": np.array(["a", "b"]), "offsets": np.array([0, 1, 1], np.uint32), "boxes": np.array([[0, 1, 2, 3]])}
    np.savez(tmp_path / "a.npz", **arrays)
    proposals = read_proposal_file(tmp_path / "a.npz")
    np.testing.assert_array_equal(proposals["a"].boxes, [[0, 1, 2, 3]])
    assert proposals["b"].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "got no array 'ids' in .*; expected ids, offsets, boxes"),
        ({"ids": np.array([1, 2])}, r"got int64 \(2,\) for ids in .*; expected strings"),
        ({"ids": np.array(["a", "a"])}, "got image id 'a' twice"),
        ({"offsets": np.array([0, 2])}, r"got int64 \(2,\) for offsets in .*; expected integers \(3,\)"),
        ({"offsets": np.array([0.0, 1.0, 2.0])}, "for offsets in .*; expected integers"),
        ({"offsets": np.array([0, 1, 1])}, "expected them to rise from 0 to the 2 boxes"),
        ({"offsets": np.array([0, 3, 2])}, "expected them to rise from 0 to the 2 boxes"),
        ({"offsets": np.array([1, 1, 2])}, "expected them to rise from 0 to the 2 boxes"),
        ({"boxes": np.ones((2, 3))}, r"got float64 \(2, 3\) for boxes in .*; expected numbers \(N, 4\)"),
        ({"boxes": np.array([[0, 0, 1, 1], [2, 0, 2, 1.0]])}, "in row 1 of image 'b' in .*; expected x1 < x2"),
        ({"scores": np.ones(3)}, r"got float64 \(3,\) for scores in .*; expected numbers \(2,\)"),
        ({"boxes": np.array([[0, 0, 1, 1], [0, 0, 1, 1e300]])}, not_finite("b")),
        ({"scores": np.array([1, np.nan])}, not_finite("b")),
    ],
)
def test_other_npz_are_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    arrays = {"ids": np.array(["a", "b"]), "offsets": np.array([0, 1, 2]), "boxes": np.array([[0, 0, 1, 1.0]] * 2)}
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(DataError, match=message) as raised:
        read_proposal_file(tmp_path / "odd.npz")
    assert str(tmp_path / "odd.npz") in str(raised.value)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("exploded",)


def test_pickled_objects_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("bomb.npz", ids=np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"file in bomb\.npz \(Object arrays cannot be loaded"):
        read_proposal_file(Path("bomb.npz"))
    assert not Path("exploded").exists()


def test_a_cut_npz_is_an_error(tmp_path: Path) -> None:
    write_proposal_npz(tmp_path / "whole.npz", {"a": Proposals(np.ones((50, 4), np.float32).cumsum(axis=1))})
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"got a damaged or unreadable file in .*cut\.npz"):
            read_proposal_file(tmp_path / "cut.npz")
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match=r"got a damaged or unreadable file in .*array\.npz"):
        read_proposal_file(tmp_path / "array.npz")


def test_scores_for_some_images_only_are_refused(tmp_path: Path) -> None:
    box = np.array([[0, 0, 1, 1]], dtype=np.float32)
    mixed = {"a": Proposals(box, np.ones(1, np.float32)), "b": Proposals(box)}
    with pytest.raises(ValueError, match="got scores for 1 of 2 images; expected them for all or none"):
        write_proposal_npz(tmp_path / "a.npz", mixed)
    with pytest.raises(ValueError, match=r"expected a name ending in \.npz"):
        write_proposal_npz(tmp_path / "a.mat", {})


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.npz", r"absent\.npz, which is no file"), ("boxes.pkl", r"boxes\.pkl; expected a name ending in")],
)
def test_no_file_or_another_kind(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "boxes.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        read_proposal_file(tmp_path / name)


# --- ProposalFile ---


def record(folder: Path, image_id: str, width: int = 50, height: int = 40) -> ImageRecord:
    path = folder / f"{image_id}.png"
    Image.new("RGB", (width, height)).save(path)
    return ImageRecord(id=image_id, path=path)


def source_of(path: Path, boxes: list[list[float]], scores: list[float] | None = None) -> ProposalFile:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    write_proposal_npz(path, {"a": Proposals(array, None if scores is None else np.array(scores, dtype=np.float32))})
    return ProposalFile(path=path)


def test_rows_come_best_first_and_once(tmp_path: Path) -> None:
    boxes = [[0, 0, 5, 5], [1, 1, 9, 9], [0, 0, 5, 5], [2, 2, 9, 9], [3, 3, 9, 9]]
    proposals = source_of(tmp_path / "p.npz", boxes, [0.1, 0.5, 0.9, 0.5, 0.7]).propose(record(tmp_path, "a"))
    np.testing.assert_array_equal(proposals.boxes[:, 0], [0, 3, 1, 2])
    np.testing.assert_array_equal(proposals.scores, np.float32([0.9, 0.7, 0.5, 0.5]))


def test_rows_without_scores_keep_the_order_of_the_file(tmp_path: Path) -> None:
    source = source_of(tmp_path / "p.npz", [[9, 9, 12, 12], [0, 0, 5, 5], [9, 9, 12, 12], [4, 4, 5, 5]])
    np.testing.assert_array_equal(source.propose(record(tmp_path, "a")).boxes[:, 0], [9, 0, 4])


def test_boxes_are_cut_to_the_image_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = [[-3, -2, 20, 10], [30, 30, 60, 50], [50, 0, 70, 9], [0, 0, 50, 40]]
    source = source_of(tmp_path / "p.npz", boxes, [0.1, 0.2, 0.3, 0.4])
    with caplog.at_level(logging.WARNING, logger="wsol.data"):
        proposals = source.propose(record(tmp_path, "a"))
        source.propose(record(tmp_path, "a"))
        ProposalFile(path=source.path).propose(record(tmp_path, "a"))
    np.testing.assert_array_equal(proposals.boxes, [[0, 0, 50, 40], [30, 30, 50, 40], [0, 0, 20, 10]])
    np.testing.assert_array_equal(proposals.scores, np.float32([0.4, 0.2, 0.1]))
    assert len(caplog.records) == 1
    assert "3 of 4 boxes of image a reach outside its 50 x 40 px" in caplog.text


def test_boxes_that_fit_exactly_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source_of(tmp_path / "p.npz", [[0, 0, 50, 40]]).propose(record(tmp_path, "a"))
    assert caplog.records == []


def test_a_missing_id_is_named(tmp_path: Path) -> None:
    source = source_of(tmp_path / "p.npz", [[0, 0, 5, 5]])
    message = r"got image id 'b', which .*p\.npz lacks; expected one of its 1 ids \(the first is 'a'\)"
    with pytest.raises(DataError, match=message):
        source.propose(record(tmp_path, "b"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = ProposalFile(path=tmp_path / "absent.mat")
    with pytest.raises(DataError, match=r"got 'No such file or directory' for .*absent\.mat"):
        source.propose(record(tmp_path, "a"))
    with pytest.raises(DataError, match=r"got 'No such file or directory' for .*absent\.mat"):
        _ = source.key


def test_the_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counting(path: Path, *, ids: tuple[str, ...] | None = None) -> dict[str, Proposals]:
        reads.append(path)
        return read_proposal_file(path, ids=ids)

    monkeypatch.setattr(proposal_files, "read_proposal_file", counting)
    source = source_of(tmp_path / "p.npz", [[0, 0, 5, 5]])
    image = record(tmp_path, "a")
    for _ in range(3):
        source.propose(image)
        ProposalFile(path=source.path).propose(image)
    assert len(reads) == 1
    key = source.key
    assert source_of(tmp_path / "p.npz", [[0, 0, 5, 5], [1, 1, 7, 7]]).key != key
    assert len(source.propose(image).boxes) == 2
    assert len(reads) == 2


def test_the_key_is_the_content(tmp_path: Path) -> None:
    first, copy = (source_of(tmp_path / name, [[0, 0, 5, 5]]) for name in ("p.npz", "q.npz"))
    other = source_of(tmp_path / "r.npz", [[0, 0, 5, 6]])
    assert first.key == copy.key != other.key
    with_ids = ProposalFile(path=first.path, ids=("a",))
    assert with_ids.key not in (first.key, ProposalFile(path=first.path, ids=("b",)).key)


def test_it_pickles_without_its_content(tmp_path: Path) -> None:
    source = source_of(tmp_path / "p.npz", np.random.default_rng(0).random((5000, 4)).cumsum(axis=1).tolist())
    source.propose(record(tmp_path, "a"))
    assert len(pickle.dumps(source)) < 1000


def test_ids_are_used(tmp_path: Path) -> None:
    write_without_ids(tmp_path / "p.mat")
    source = ProposalFile(path=tmp_path / "p.mat", ids=("x", "y", "z"))
    np.testing.assert_array_equal(source.propose(record(tmp_path, "z")).boxes, [[6, 4, 7, 5]])


def test_the_conversion_in_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "proposals.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    selective_search_layout(Path("SelectiveSearchVOC2007trainval.mat"))
    test_boxes = {"images": cell(["000001"], column=True), "boxes": cell([np.array([[1, 2, 3, 4.0]])], column=False)}
    savemat("SelectiveSearchVOC2007test.mat", test_boxes)
    write_without_ids(Path("voc_2007_trainval.mat"))
    Path("VOC2007/ImageSets/Main").mkdir(parents=True)
    Path("VOC2007/ImageSets/Main/trainval.txt").write_text("\n".join(MATLAB))
    exec(compile(program, "docs/proposals.md", "exec"), {})
    merged = read_proposal_file(Path("ssw_voc2007.npz"))
    np.testing.assert_array_equal(merged.pop("000001").boxes, [[1, 0, 4, 3]])
    assert_is_the_example(merged, scored=False)
    assert_is_the_example(read_proposal_file(Path("ss_voc2007.npz")), scored=False)
