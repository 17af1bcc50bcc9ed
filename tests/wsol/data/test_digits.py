"""The generated data set: its layout, its boxes, one seed, and what processes and crashes may do to its folder."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from wsol.boxes import iou
from wsol.data import digits
from wsol.data.images import read_image
from wsol.data.proposal_sources import SelectiveSearch
from wsol.data.proposals import select
from wsol.data.voc import read_evaluation_split, read_image_level_split, resolve_classes

REPOSITORY = Path(__file__).resolve().parents[3]
TINY = {"seed": 3, "train": 12, "val": 4, "test": 3, "image_px": 64}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits") / "tiny"
    digits.generate(root, **TINY)
    return root


@pytest.fixture
def tiny_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "DEFAULTS", {"seed": 0, "train": 3, "val": 1, "test": 1, "image_px": 32})


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def objects(root: Path, image_id: str) -> list[tuple[str, tuple[int, ...]]]:
    found = []
    for element in ET.parse(root / "Annotations" / f"{image_id}.xml").iter("object"):
        corners = tuple(int(element.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax"))
        found.append((element.findtext("name", ""), corners))
    return found


def ids_of(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


def test_split_files_list_the_images(tiny: Path) -> None:
    assert [len(ids_of(tiny, split)) for split in digits.SPLITS] == [12, 4, 16, 3]
    assert ids_of(tiny, "trainval") == ids_of(tiny, "train") + ids_of(tiny, "val")
    everything = sorted(ids_of(tiny, "trainval") + ids_of(tiny, "test"))
    assert sorted(path.stem for path in (tiny / "JPEGImages").iterdir()) == everything
    assert sorted(path.stem for path in (tiny / "Annotations").iterdir()) == everything


def test_label_files_are_those_of_voc(tiny: Path) -> None:
    for split, name in itertools.product(digits.SPLITS, digits.CLASSES):
        text = (tiny / "ImageSets" / "Main" / f"{name}_{split}.txt").read_text()
        expected = ""
        for image_id in ids_of(tiny, split):
            present = name in [object_name for object_name, _ in objects(tiny, image_id)]
            expected += image_id + ("  1" if present else " -1") + "\n"
        assert text == expected


def test_every_class_is_in_a_split_of_ten_images(tiny: Path) -> None:
    assert {name for image_id in ids_of(tiny, "train") for name, _ in objects(tiny, image_id)} == set(digits.CLASSES)
    assert sorted(digits.CLASSES) == list(digits.CLASSES)


def test_annotations_are_one_based_inclusive_and_apart(tiny: Path) -> None:
    for image_id in ids_of(tiny, "trainval"):
        annotation = ET.parse(tiny / "Annotations" / f"{image_id}.xml")
        assert annotation.findtext("filename") == f"{image_id}.jpg"
        assert [annotation.findtext(f"size/{name}") for name in ("width", "height", "depth")] == ["64", "64", "3"]
        boxes = [box for _, box in objects(tiny, image_id)]
        assert 1 <= len(boxes) <= 3
        for x1, y1, x2, y2 in boxes:
            assert 1 <= x1 < x2 <= 64
            assert 1 <= y1 < y2 <= 64
        for one, other in itertools.combinations(boxes, 2):
            assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def test_the_readers_of_voc_folders_read_it(tiny: Path) -> None:
    classes = resolve_classes(tiny, "auto", "train")
    assert classes == digits.CLASSES
    evaluation = read_evaluation_split(tiny, split="train", classes=classes)
    weak = read_image_level_split(tiny, split="train", classes=classes)
    np.testing.assert_array_equal(weak.labels, evaluation.labels)
    for record, truth in zip(evaluation.images, evaluation.ground_truth, strict=True):
        expected = objects(tiny, record.id)
        assert [classes[label] for label in truth.labels] == [name for name, _ in expected]
        one_based = np.array([box for _, box in expected], dtype=np.float32)
        np.testing.assert_array_equal(truth.boxes, one_based - [1, 1, 0, 0])
        assert read_image(record).shape == (64, 64, 3)


def test_boxes_are_tight_around_what_was_painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paste, checked = digits._paste, 0

    def checking_paste(canvas: np.ndarray, ink: np.ndarray, box: digits.Box, rng: np.random.Generator) -> None:
        nonlocal checked
        before = canvas.copy()
        paste(canvas, ink, box, rng)
        change = np.abs(canvas - before).max(axis=2)
        x1, y1, x2, y2 = box
        inside = change[y1:y2, x1:x2].copy()
        change[y1:y2, x1:x2] = 0
        assert change.max() == 0
        for border in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert border.max() >= 15, "a border of the box without visible ink"
        checked += 1

    monkeypatch.setattr(digits, "_paste", checking_paste)
    digits.generate(tmp_path / "data", seed=1, train=20, val=0, test=0, image_px=96)
    assert checked >= 20


@pytest.mark.parametrize("side", [8, 33])
def test_every_digit_has_ink_at_every_size(side: int) -> None:
    for digit in digits._load_sources().digits[::7]:
        ink = digits._draw_ink(digit, side)
        assert ink.min() >= 0
        assert ink.max() <= 1
        for border in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert border.max() >= 0.5


def test_digits_are_disjoint_between_splits_and_all_used() -> None:
    sources = digits._load_sources()
    pools = {split: digits._digit_pools(sources, seed=0, split=split) for split in ("train", "val", "test")}
    rows = np.concatenate([row for split in pools.values() for row in split])
    assert sorted(rows) == list(range(1797))
    for pool in pools.values():
        for digit, members in enumerate(pool):
            assert set(sources.digit_classes[members]) == {digit}
            assert len(members) >= 40
    assert set(pools["val"][0]) != set(digits._digit_pools(sources, seed=1, split="val")[0])


def test_only_the_pool_of_the_split_is_drawn_from() -> None:
    sources = digits._load_sources()
    pools = [np.array([int(np.flatnonzero(sources.digit_classes == digit)[0])]) for digit in range(10)]
    blank = digits._Sources(np.zeros_like(sources.digits), sources.digit_classes, sources.photographs)
    for pool in pools:
        blank.digits[pool] = sources.digits[pool]  # every other digit would raise for lack of ink
    for number in range(20):
        rng = np.random.default_rng(number)
        scene = digits._draw_scene(blank, pools, first_class=number % 10, image_px=64, rng=rng)
        assert scene.classes[0] == digits.CLASSES[number % 10]


def test_another_seed_gives_other_images(tiny: Path, tmp_path: Path) -> None:
    digits.generate(tmp_path / "other", **{**TINY, "seed": 4})
    ours, other = contents(tiny), contents(tmp_path / "other")
    images = [name for name in ours if name.startswith("JPEGImages/")]
    assert all(ours[name] != other[name] for name in images)


def test_an_image_does_not_depend_on_how_many_there_are(tiny: Path, tmp_path: Path) -> None:
    digits.generate(tmp_path / "few", **{**TINY, "train": 2, "val": 1, "test": 0})
    for name in ("train_0001", "val_0000"):
        file = f"JPEGImages/{name}.jpg"
        assert (tmp_path / "few" / file).read_bytes() == (tiny / file).read_bytes()


def test_selective_search_finds_the_digits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    digits.generate(root, seed=0, train=15, val=0, test=0, image_px=128)
    split = read_evaluation_split(root, split="train", classes=digits.CLASSES)
    best, counts = [], []
    for record, truth in zip(split.images, split.ground_truth, strict=True):
        rng = np.random.default_rng(0)
        boxes = select(SelectiveSearch().propose(record), count=None, min_size_px=8, rng=rng).boxes
        best += list(iou(truth.boxes, boxes).max(axis=1))
        counts.append(len(boxes))
    assert np.mean(np.array(best) >= 0.5) >= 0.9
    assert 100 <= np.mean(counts) <= 300


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="data exists and is not empty"):
        digits.generate(tmp_path / "data", **TINY)
    assert contents(tmp_path) == {"data/precious.txt": b"mine"}


@pytest.mark.parametrize("wrong", [{"image_px": 31}, {"train": -1}])
def test_impossible_sizes_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected image_px >= 32 and no negative count"):
        digits.generate(tmp_path / "data", **{**TINY, **wrong})


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image, written = digits._write_image, []

    def interrupted(root: Path, image_id: str, scene: digits._Scene) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt("stop")
        written.append(image_id)
        write_image(root, image_id, scene)

    monkeypatch.setattr(digits, "_write_image", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        digits.generate(tmp_path / "data", **TINY)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny_default")
def test_the_default_is_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = digits.digits_root(tmp_path / "new" / "cache")
    assert root.parent == tmp_path / "new" / "cache"
    monkeypatch.delattr(digits, "generate")
    assert digits.digits_root(tmp_path / "new" / "cache") == root
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_the_name_follows_what_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {digits._folder_name()}
    changes = [("DEFAULTS", {**digits.DEFAULTS, "seed": 1}), ("GENERATOR_VERSION", 2), ("_ZOOM", (1.0, 2.0))]
    for attribute, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(digits, attribute, value)
            names.add(digits._folder_name())
    assert len(names) == 4


@pytest.mark.usefixtures("tiny_default")
@pytest.mark.parametrize("damage", ["missing file", "short file", "no manifest", "empty folder", "torn manifest"])
def test_an_incomplete_folder_is_replaced(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    root = digits.digits_root(tmp_path)
    whole = contents(root)
    image = root / "JPEGImages" / "train_0002.jpg"
    manifest = root / "digits.json"
    if damage == "missing file":
        image.unlink()
    elif damage == "short file":
        image.write_bytes(image.read_bytes()[:100])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_bytes(manifest.read_bytes()[:50])
    else:
        shutil.rmtree(root)
        root.mkdir()
    with caplog.at_level(logging.WARNING, logger="wsol.data"):
        assert digits.digits_root(tmp_path) == root
    assert "is incomplete" in caplog.text
    assert contents(root) == whole
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


@pytest.mark.usefixtures("tiny_default")
def test_the_slower_of_two_processes_takes_the_folder_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = digits.digits_root(tmp_path / "reference")
    write_manifest = digits._write_manifest

    def meanwhile(temporary: Path, parameters: dict[str, int]) -> None:
        write_manifest(temporary, parameters)
        shutil.copytree(root, tmp_path / "cache" / root.name)

    monkeypatch.setattr(digits, "_write_manifest", meanwhile)
    assert contents(digits.digits_root(tmp_path / "cache")) == contents(root)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [root.name]


@pytest.mark.usefixtures("tiny_default")
def test_a_folder_of_others_that_is_incomplete_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest = digits._write_manifest

    def meanwhile(temporary: Path, parameters: dict[str, int]) -> None:
        write_manifest(temporary, parameters)
        (tmp_path / digits._folder_name() / "JPEGImages").mkdir(parents=True)

    monkeypatch.setattr(digits, "_write_manifest", meanwhile)
    with pytest.raises(FileExistsError, match="was filled by another process"):
        digits.digits_root(tmp_path)


@pytest.mark.usefixtures("tiny_default")
def test_a_process_killed_midway_leaves_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits._load_sources()
    with monkeypatch.context() as patch:
        patch.setattr(digits, "_write_split", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = os.fork()
        if process == 0:
            digits.digits_root(tmp_path)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert [path.name.startswith(".digits-") for path in tmp_path.iterdir()] == [True]
    assert digits._is_complete(digits.digits_root(tmp_path))


GENERATE = """
import json, sys
from pathlib import Path
from wsol.data import digits
digits.DEFAULTS = json.loads(sys.argv[2])
digits._load_sources()
print("ready", flush=True)
sys.stdin.readline()
print(digits.digits_root(Path(sys.argv[1])))
"""


def test_two_processes_at_once_make_one_and_the_same_as_a_third(tiny: Path, tmp_path: Path) -> None:
    processes = []
    for hash_seed in ("1", "77"):
        process = subprocess.Popen(
            [sys.executable, "-c", GENERATE, str(tmp_path), json.dumps(TINY)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1]
    assert [str(path) for path in tmp_path.iterdir()] == [answers[0]]
    assert contents(Path(answers[0])) == contents(tiny)
