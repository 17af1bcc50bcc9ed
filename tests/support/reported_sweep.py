"""A sweep's folder with all that a page shows, and with text in it that wants to be more than text."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from experiments.json_file import write_json
from experiments.metrics_file import append_metrics
from experiments.slots import cpu_slots
from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore, TrialResult, write_result
from experiments.timeline import Timeline
from experiments.trial import TrialState

SCRIPT = "</script><script>window.hacked=1</script>"
CLASSES = (f"<b>cat</b>{SCRIPT}", 'dog" onmouseover="window.hacked=1', "\u202eelttob", "tabby\x1b[31m\x00'&amp;")
WEIGHTS = (f"weights/{SCRIPT}.pth", "weights/<img src=x onerror=window.hacked=1>.pth", "weights/plain.pth")
QUESTION = f"Which weights? {SCRIPT} <i>'\"&amp; {{{{ 7 * 7 }}}} \u05d0\u05d1\u05d2"
LONG_LINE = "Traceback " + "<svg onload=window.hacked=1>" * 400
METRICS = ("ap50_11pt", "ap50_area", "corloc50", "cls_ap", "point_ap", "pointing_game", "proposal_recall50")
EPOCHS = 4
SPEC = """\
name: hostile
question: {question}
experiment:
  task: wsddn
  data: {{root: digits}}
  model: {{backbone: tiny, weights: none}}
  train: {{epochs: {epochs}}}
search:
  - grid: {{model.weights: {weights}, train.lr: [1.0e-5, 1.0e-4, 1.0e-3]}}
seeds: 3
"""


def reported_sweep(folder: Path) -> tuple[SweepSpec, SweepStore, Path]:
    """Writes it: 26 complete trials, one of them with two attempts, and a failed one.

    Returns:
        The spec, its folder and its file.
    """
    file = folder / "hostile.yaml"
    text = SPEC.format(question=json.dumps(QUESTION), weights=json.dumps(WEIGHTS), epochs=EPOCHS)
    file.write_text(text, "utf-8")
    spec = load_spec(file)
    store = SweepStore(folder / "results" / spec.name)
    slots = cpu_slots(2, cores=2)
    ticks = iter(range(10_000))
    for number, plan in enumerate(spec.plans):
        trial = store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"))
        timeline = Timeline(store.timeline, clock=lambda: 1_700_000_000.0 + 5 * next(ticks))
        timeline.began(number, 1, slots[number % 2])
        fails = number == 4
        for epoch in range(1, 2 if fails else EPOCHS + 1):
            row = {"epoch": epoch, "loss": 2.0 / epoch, "duration_s": 1.5, "time": 1_700_000_000.0 + number}
            append_metrics(trial.paths, {**row, "metrics": values(number, epoch)})
        if number == 7:
            timeline.ended(number, 1)
            timeline.began(number, 2, slots[1])
        timeline.ended(number, 2 if number == 7 else 1)
        if fails:
            trial.paths.log.write_text(f"{LONG_LINE}\n{SCRIPT}\n\x1b[2Jcleared\n", "utf-8")
        state, reason = (TrialState.FAIL, f"error: {SCRIPT}") if fails else (TrialState.COMPLETE, "")
        metrics = {} if fails else values(number, EPOCHS)
        write_result(trial.paths, TrialResult(plan.signature, state, reason, 1, metrics, EPOCHS, 6.0))
    write_json(store.environment, {"python": "3.11", "packages": {"<b>torch</b>": SCRIPT}, "changed_files": [SCRIPT]})
    images = store.trial_paths(26, spec.plans[26].signature).images
    images.mkdir()
    (images / "best-1-<b>x.jpg").write_bytes(JPEG)
    return spec, store, file


def values(number: int, epoch: int) -> dict[str, float | None]:
    """Of trial `number`: better with its number; the last class is shown in no image."""
    found: dict[str, float | None] = {}
    for position, metric in enumerate(METRICS):
        for index, name in enumerate(CLASSES):
            at = 0.012 * number + 0.05 * index + 0.01 * position
            found[f"{metric}/{name}"] = None if index == 3 else at * epoch / EPOCHS + 0.1
        known = [value for name, value in found.items() if name.startswith(f"{metric}/") and value is not None]
        found[f"{metric}/mean"] = sum(known) / len(known)
    return found


def _jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(stream, "JPEG")
    return stream.getvalue()


JPEG = _jpeg()
