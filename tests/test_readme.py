"""Every command and every snippet of the README is run. A new one without an entry here fails."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from simulated_driver import SimulatedDriver, a100
from wandb_tools import KEY, wandb_tool

import runner
from experiments.spec import load_spec
from experiments.store import SweepStore, TrialResult, write_result
from experiments.trial import TrialState
from wsol import checkpoint
from wsol.boxes import Detections
from wsol.build import build_model
from wsol.data import digits, voc2007
from wsol.data.prepare import data_root
from wsol.data.voc import VOC_CLASSES, read_evaluation_split
from wsol.data.voc2007 import Archive
from wsol.detections import SplitDetections, save_detections

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")

LAST_LINE_OF_A_DRY_RUN = "dry run: nothing was started"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = list(dict.fromkeys(line for block in blocks("bash") for line in block.splitlines()))

RUN_BY_CI = {"make quickstart", "make test"}
OF_THE_SHELL = {"source .venv/bin/activate"}
DOWNLOAD = "python runner.py data voc2007 --root data"
PREDICT = "python runner.py predict sweeps/quickstart.yaml photo.jpg"
EVALUATE = "python runner.py evaluate sweeps/quickstart.yaml --metric ap30_area"
SCHEMA = "python runner.py schema > sweeps/schema.json"
"""tests/experiments/test_schema.py compares what it prints with the file that is shipped."""
GC = "python runner.py gc sweeps/quickstart.yaml --weights best --dry-run"
SYNC = "python runner.py sync sweeps/quickstart.yaml"
REPORT_AT_WANDB = "python runner.py report sweeps/quickstart.yaml --wandb"
STATUS = "python runner.py status sweeps/quickstart.yaml"
REPORTS = {
    "python runner.py report sweeps/quickstart.yaml": {"report.html", "leaderboard.csv", "per_class_ap.csv"},
    "python runner.py report sweeps/quickstart.yaml --format latex --format json": {"report.tex", "report.json"},
}
"""With the files that each writes."""
COMPARE = "python runner.py report sweeps/wsddn_lr.yaml --compare sweeps/wsddn_proposals.yaml"
GPUS = "python runner.py sweeps/wsddn_lr.yaml --gpus 0,2"
"""Shown on a machine with three simulated GPUs."""
LONG = "python runner.py sweeps/wsddn_lr.yaml"
"""Days of work: it is run until its first epoch, then interrupted."""
SHOWN_DRY = {
    "python runner.py sweeps/wsddn_lr.yaml --dry-run",
    "python runner.py sweeps/quickstart.yaml --cpu-slots 1",
    "python runner.py sweeps/quickstart.yaml",
    "python runner.py sweeps/quickstart.yaml --retry-failed",
    "python runner.py sweeps/quickstart.yaml --continue-pruned",
    "python runner.py sweeps/quickstart.yaml --no-reuse",
    "python runner.py sweeps/quickstart.yaml --set name=longer --set train.epochs=12 --dry-run",
}
"""Run with --dry-run: the real runs are CI's quickstart and tests/faults."""


def test_every_command_is_known_here() -> None:
    others = {"make quickstart", *OF_THE_SHELL, DOWNLOAD, PREDICT, EVALUATE, GC, SYNC, GPUS, LONG, SCHEMA}
    others |= {REPORT_AT_WANDB, STATUS, COMPARE, *REPORTS}
    assert set(COMMANDS) == others | SHOWN_DRY


def test_ci_runs_what_a_new_user_types() -> None:
    lines = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    assert set(lines) >= RUN_BY_CI


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a fresh clone, with the sweeps and nothing else, that the commands are run in."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPOSITORY / "sweeps", folder / "sweeps")
    shutil.copy(REPOSITORY / "runner.py", folder / "runner.py")
    return folder


@pytest.fixture(scope="module")
def downloaded(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's download command, run against archives on loopback. Returns the checkout with its data."""
    served = tmp_path_factory.mktemp("server")
    archives = [_archive(served, name, split) for name, split in (("trainval.tar", "train"), ("test.tar", "val"))]
    with _server(served) as url, pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        patch.setitem(voc2007.download.__kwdefaults__, "archives", [_at(archive, url) for archive in archives])
        patch.setitem(voc2007.is_complete.__kwdefaults__, "archives", [_at(archive, url) for archive in archives])
        assert runner.main(shlex.split(DOWNLOAD)[2:]) == 0
    return checkout


def _archive(folder: Path, name: str, split: str) -> Archive:
    """A tar with a VOCdevkit/VOC2007 of two images for one split."""
    made = folder / f"made-{split}"
    digits.generate(made / "VOCdevkit" / "VOC2007", seed=0, train=2, val=2, test=0, image_px=64)
    voc = made / "VOCdevkit" / "VOC2007"
    for annotation in voc.glob("Annotations/*.xml"):
        text = annotation.read_text("utf-8")
        annotation.write_text(re.sub(r"digit_(\d)", lambda match: VOC_CLASSES[int(match[1])], text), "utf-8")
    for path in voc.rglob("*"):
        if path.is_file() and (path.stem.startswith("digit_") or path.name == "digits.json" or _other(path, split)):
            path.unlink()
    with tarfile.open(folder / name, "w") as tar:
        tar.add(made / "VOCdevkit", "VOCdevkit")
    return Archive(name=name, md5=hashlib.md5((folder / name).read_bytes()).hexdigest(), urls=())


def _other(path: Path, split: str) -> bool:
    return not path.stem.startswith(split) or path.name == "trainval.txt"


def _at(archive: Archive, url: str) -> Archive:
    return Archive(name=archive.name, md5=archive.md5, urls=(f"{url}/{archive.name}",))


class _server:
    """Serves a folder on loopback."""

    def __init__(self, folder: Path) -> None:
        def handler(*args: object) -> http.server.SimpleHTTPRequestHandler:
            return http.server.SimpleHTTPRequestHandler(*args, directory=str(folder))  # type: ignore[arg-type]

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_the_download_command(downloaded: Path) -> None:
    voc = downloaded / "data" / "VOCdevkit" / "VOC2007"
    assert len(list((voc / "JPEGImages").iterdir())) == 4
    assert (voc / "ImageSets" / "Main" / "train.txt").is_file()


@pytest.mark.parametrize("command", sorted(SHOWN_DRY))
def test_the_commands_of_a_sweep(command: str, downloaded: Path, tmp_path: Path) -> None:
    if "--dry-run" not in command:
        command += " --dry-run"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=downloaded, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == LAST_LINE_OF_A_DRY_RUN


def test_the_command_for_some_gpus(
    downloaded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(downloaded)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("experiments.devices.nvml_library", lambda: SimulatedDriver(a100(0), a100(1), a100(2)))
    assert runner.main([*shlex.split(GPUS)[2:], "--dry-run"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("training on gpu 0, 2 (NVIDIA A100-SXM4-80GB, 86 GB): ")
    assert last == LAST_LINE_OF_A_DRY_RUN


@pytest.fixture
def alexnet_weights(tmp_path: Path) -> Path:
    """Random numbers where torch hub keeps AlexNet's ImageNet weights: there is nothing to download here."""
    code = (
        "import torch, torchvision, sys; "
        "torch.save(torchvision.models.alexnet().state_dict(), sys.argv[1] + '/alexnet-owt-7be5be79.pth')"
    )
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return tmp_path


def test_the_long_sweep_starts_and_stops(downloaded: Path, alexnet_weights: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_HOME": str(alexnet_weights),
    }
    command = [sys.executable, *shlex.split(LONG)[1:], "--cpu-slots", "1"]
    with subprocess.Popen(command, cwd=downloaded, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(_until(process.stdout, r"trial 0 epoch 1/20: loss [\d.]+"))
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
    assert process.returncode == 130, "".join(lines)
    assert "sweep wsddn_lr: 12 trials, 0 finished before, 12 to run\n" in lines


def _until(stream: Iterator[str], pattern: str) -> Iterator[str]:
    for line in stream:
        yield line
        if re.match(pattern, line):
            return
    pytest.fail(f"the output ended without {pattern}")


@pytest.fixture(scope="module")
def finished(checkout: Path) -> Path:
    """The checkout with one complete trial of the quickstart, which trained for no time and found nothing."""
    spec = load_spec(REPOSITORY / "sweeps" / "quickstart.yaml")
    plan = spec.plans[0]
    store = SweepStore(checkout / "results" / "quickstart")
    trial = store.create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
    classes = tuple(f"digit_{digit}" for digit in range(10))
    checkpoint.save(trial.paths.checkpoint, {"model": build_model(plan.config, num_classes=10).state_dict()}, number=6)
    split = read_evaluation_split(data_root("digits"), split="val", classes=classes)
    nothing = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int))
    count = len(split.images)
    save_detections(
        trial.paths.detections,
        SplitDetections(
            image_ids=tuple(record.id for record in split.images),
            classes=classes,
            detections=(nothing,) * count,
            class_scores=np.zeros((count, 10), np.float32),
            points=np.zeros((count, 10, 2), np.float32),
            top_boxes=np.full((count, 10, 4), np.nan, np.float32),
        ),
    )
    result = TrialResult(
        signature=plan.signature,
        state=TrialState.COMPLETE,
        stop_reason="",
        attempts=1,
        metrics={spec.objective.metric: 0.5},
        epochs=6,
        duration_s=1.0,
    )
    write_result(trial.paths, result)
    return checkout


def run_there(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *shlex.split(command)[1:]]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_evaluate_command(finished: Path) -> None:
    done = run_there(EVALUATE, finished)
    assert done.returncode == 0, done.stderr
    assert "ap30_area" in done.stdout
    assert "1 of 6 trials measured, 1 are complete" in done.stdout


def test_the_predict_command(finished: Path) -> None:
    Image.new("RGB", (128, 96), "teal").save(finished / "photo.jpg")
    done = run_there(PREDICT, finished)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert {"image", "trial", "picture", "class_scores", "detections"} == found.keys()
    assert set(found["detections"][0]) == {"class", "score", "box"}
    with Image.open(finished / "results" / "quickstart" / "predictions" / Path(found["picture"]).name) as picture:
        assert picture.format == "PNG"


def test_the_gc_command(finished: Path) -> None:
    done = run_there(GC, finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert "optimizer states" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("; dry run: nothing was removed")


def test_the_status_command(finished: Path) -> None:
    done = run_there(STATUS, finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 6 trials finished (1 complete), 5 waiting" in done.stdout


@pytest.mark.parametrize("command", REPORTS)
def test_the_report_commands(finished: Path, command: str) -> None:
    folder = finished / "results" / "quickstart"
    for name in REPORTS[command]:
        (folder / name).unlink(missing_ok=True)
    done = run_there(command, finished)
    assert (done.returncode, done.stderr) == (0, "")
    written = re.findall(r"^written: results/quickstart/(.*)$", done.stdout, re.MULTILINE)
    assert set(written) == {name for name in REPORTS[command] if (folder / name).is_file()} == REPORTS[command]


def test_the_compare_command(finished: Path) -> None:
    for name in ("wsddn_lr", "wsddn_proposals"):
        plan = load_spec(REPOSITORY / "sweeps" / f"{name}.yaml").plans[0]
        store = SweepStore(finished / "results" / name)
        trial = store.create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
        write_result(trial.paths, TrialResult(plan.signature, TrialState.COMPLETE, "", 1, {}, 1, 1.0))
    done = run_there(COMPARE, finished)
    assert done.returncode == 0, done.stderr
    page = (finished / "results" / "wsddn_lr" / "report.html").read_text("utf-8")
    assert "Compared with wsddn_proposals" in page


def test_the_commands_for_wandb(finished: Path, shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        done = run_there(SYNC, finished)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "quickstart: 1 trials are at W&B, 1 of them sent now" in done.stdout
        done = run_there(REPORT_AT_WANDB, finished)
        assert (done.returncode, done.stdout.startswith("report: http")) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "listed", "total"),
    [
        ("README.md", (4 + 2) * 3, (4 + 2) * 3),
        ("docs/sweep-spec.md", (5 + 2) * 3, (5 + 2 + 30) * 3 + 3),  # one of the six cells of its grid is excluded
    ],
)
def test_the_specs_shown_are_specs(page: str, listed: int, total: int, tmp_path: Path) -> None:
    text = (REPOSITORY / page).read_text("utf-8")
    shown, *_ = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "shown.yaml"
    file.write_text(shown)
    spec = load_spec(file)
    assert (len(spec.plans), spec.total) == (listed, total)
