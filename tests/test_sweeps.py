"""Every spec that is shipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.spec import SweepSpec, load_spec

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = sorted((REPOSITORY / "sweeps").glob("**/*.yaml"))


def header(file: Path) -> dict[str, str]:
    """The comment below a spec's line for editors: `# Key: text`, continued in indented lines."""
    entries: dict[str, str] = {}
    key = ""
    for line in file.read_text("utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            break
        if found := re.match(r"# ([A-Z][a-z]+):\s+(.*)", line):
            key = found[1]
            assert key not in entries, f"{file.name}: header line {key} twice"
            entries[key] = found[2]
        else:
            assert line.startswith("#    "), f"{file.name}: {line!r} continues nothing"
            entries[key] += " " + line[1:].strip()
    return entries


def test_are_here() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"quickstart", "wsddn_lr", "wsddn_proposals", "backbones", "localizer_pooling"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestEach:
    @pytest.fixture
    def spec(self, file: Path) -> SweepSpec:
        return load_spec(file)

    def test_is_named_like_its_file(self, file: Path, spec: SweepSpec) -> None:
        assert spec.name == file.stem
        assert spec.question.endswith("?")

    def test_sweeps_something_and_asks_for_nothing_twice(self, spec: SweepSpec) -> None:
        assert spec.total > 1
        assert spec.swept_keys
        assert spec.merged == 0

    def test_first_line_leads_editors_to_the_schema(self, file: Path) -> None:
        comment, _, schema = file.read_text("utf-8").splitlines()[0].partition("=")
        assert comment == "# yaml-language-server: $schema"
        assert (file.parent / schema).resolve() == REPOSITORY / "sweeps" / "schema.json"

    def test_header_says_what_a_reader_needs(self, file: Path) -> None:
        entries = header(file)
        assert {"Question", "Paper", "Command", "Cost", "Expected"} <= set(entries)
        assert entries["Question"].endswith("?")
        assert all(entries.values())

    def test_command_in_the_header_runs_this_file(self, file: Path) -> None:
        assert f"python runner.py {file.relative_to(REPOSITORY)}" in header(file)["Command"]

    def test_data_that_must_be_fetched_are_named(self, file: Path, spec: SweepSpec) -> None:
        needs_voc = any(plan.config.data.root.startswith("data/VOCdevkit") for plan in spec.corners)
        assert ("python runner.py data voc2007 --root data" in header(file).get("Needs", "")) == needs_voc

    def test_cost_names_the_trials_and_epochs_that_the_spec_has(self, file: Path, spec: SweepSpec) -> None:
        cost = header(file)["Cost"]
        if "trials" not in cost:
            pytest.skip("the cost is given as a time alone")
        assert re.search(r"\b(\d+) trials of (\d+) epochs", cost), cost
        trials, epochs = map(int, re.findall(r"\b(\d+) trials of (\d+) epochs", cost)[0])
        assert trials == spec.total
        assert {plan.config.train.epochs for plan in spec.corners} == {epochs}


def test_the_quickstart_has_six_trials_over_two_axes() -> None:
    spec = load_spec(REPOSITORY / "sweeps" / "quickstart.yaml")
    assert len(spec.plans) >= 6
    assert len(spec.swept_keys) >= 2
    assert {plan.config.data.root for plan in spec.plans} == {"digits"}
    assert {plan.config.model.weights for plan in spec.plans} == {"none"}  # nothing is downloaded
