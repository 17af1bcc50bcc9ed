"""The page of a sweep as a file: what is in it, and that text of any origin stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reported_sweep import CLASSES, LONG_LINE, QUESTION, WEIGHTS, reported_sweep

import runner
from experiments.report.command import write_report
from experiments.report.entries import entries
from experiments.report.page_file import page_html
from experiments.report.page_parts import MAX_ROWS, reproducing_command, sweep_page
from experiments.report.plotly_figure import Figure, label
from experiments.report.section import FigurePart, Page, Paragraph, Section
from experiments.report.statistics import sweep_statistics
from experiments.report.table import Cell, DataTable, shades, text_cell
from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore


class Reader(HTMLParser):
    """What a browser would make of a page."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepSpec, SweepStore, Path]:
    return reported_sweep(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def page(sweep: tuple[SweepSpec, SweepStore, Path]) -> Page:
    spec, store, _ = sweep
    found = entries(spec, store)
    return sweep_page(spec, store, found, sweep_statistics(spec, found))


@pytest.fixture(scope="module")
def html(page: Page) -> str:
    return page_html(page)


class TestHostileText:
    def test_it_makes_no_tag_and_no_attribute(self, html: str) -> None:
        seen = read(html)
        names = {tag for tag, _ in seen.tags}
        assert not names & {"b", "i", "svg", "iframe", "object"}
        assert sum(tag == "script" for tag, _ in seen.tags) == 3
        attributes = {name for _, given in seen.tags for name in given}
        assert not any(name.startswith("on") for name in attributes)
        assert {given["src"].partition(":")[0] for _, given in seen.tags if given.get("src")} == {"data"}

    @pytest.mark.parametrize("text", [*CLASSES[:2], WEIGHTS[1], "{{ 7 * 7 }}", "\u05d0\u05d1\u05d2"])
    def test_it_is_shown_as_it_is(self, html: str, text: str) -> None:
        assert text in read(html).text

    def test_what_does_not_print_is_spelled_out(self, html: str) -> None:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html.replace(plotly(html), ""))
        text = read(html).text
        assert r"\u202eelttob" in text
        assert r"tabby\x1b[31m\x00'&amp;" in text

    def test_long_lines_are_cut(self, html: str) -> None:
        text = read(html).text
        assert LONG_LINE[:500] + " …" in text
        assert LONG_LINE[:520] not in text

    def test_it_stays_text_in_figures(self, page: Page, html: str) -> None:
        raw = read(html).scripts[0]
        assert "<" not in raw
        assert json.loads(raw).keys() == {figure.id for figure in page.figures}
        drawn = json.dumps([[figure.data, figure.layout] for figure in page.figures])
        ours = drawn.replace("<br>", "").replace("<extra></extra>", "")
        assert "<" not in ours, "plotly.js would take it for markup"
        assert "&lt;script&gt;" in ours


def plotly(html: str) -> str:
    return max(read(html).scripts, key=len)


class TestContents:
    def test_the_first_screen_has_question_answer_and_command(self, page: Page, html: str) -> None:
        seen = read(html)
        assert page.question == QUESTION
        assert "is best: ap50_11pt/mean" in page.sentence
        before, _, _ = seen.text.partition("Leaderboard")
        assert page.sentence in before
        assert "--set 'search=[]'" in before

    def test_the_sections(self, page: Page) -> None:
        assert [section.id for section in page.sections] == [
            "leaderboard",
            "configurations",
            "classes",
            "keys",
            "course",
            "failures",
            "pictures",
            "numbers",
            "environment",
        ]

    def test_every_figure_has_a_table_and_every_id_is_there_once(self, page: Page, html: str) -> None:
        ids = [given["id"] for _, given in read(html).tags if given.get("id")]
        assert len(ids) == len(set(ids))
        assert [figure.id for figure in page.figures] == [
            "importance",
            "key-model-weights",
            "key-train-lr",
            "parallel",
            "curves",
            "slots",
        ]
        assert {figure.table.id for figure in page.figures} <= set(ids)
        assert all(figure.table.rows and figure.alt for figure in page.figures)

    def test_it_asks_nobody_for_anything(self, html: str) -> None:
        policy = next(given for tag, given in read(html).tags if given.get("http-equiv"))
        assert str(policy["content"]).startswith("default-src 'none';")
        own = html.replace(plotly(html), "")
        assert not re.search(r"https?://", own)

    def test_without_anything_to_draw_there_is_no_plotly(self) -> None:
        empty = Page("x", "", "nothing yet", (), (Paragraph("text"),), ())
        assert len(page_html(empty)) < 20_000

    def test_tables_have_as_many_cells_as_columns(self, page: Page) -> None:
        tables = [getattr(part, "table", None) for section in page.sections for part in section.parts]
        for table in [*filter(None, tables), *(figure.table for figure in page.figures)]:
            assert {len(row) for row in table.rows} == {len(table.columns)}, table.id
            assert max(table.numeric, default=0) < len(table.columns), table.id

    def test_failures_have_their_kind_and_the_end_of_their_log(self, page: Page) -> None:
        failures = next(section for section in page.sections if section.id == "failures")
        assert [part.kind for part in failures.parts] == ["paragraph", "table", "log"]
        assert "cleared" in failures.parts[2].text  # type: ignore[union-attr]

    def test_an_attempt_that_was_not_the_last_is_told_apart(self, page: Page) -> None:
        slots = next(figure for figure in page.figures if figure.id == "slots")
        outcomes = [row[-1].text for row in slots.table.rows]
        assert (outcomes.count("COMPLETE"), outcomes.count("FAIL"), outcomes.count("began again")) == (26, 1, 1)

    def test_many_trials_are_cut_and_it_says_so(self, page: Page) -> None:
        from experiments.report.page_parts import _left_out

        assert _left_out(MAX_ROWS, MAX_ROWS, "trials", "x.csv") == ""
        assert (
            _left_out(MAX_ROWS + 1, MAX_ROWS, "trials", "x.csv") == "The best 1,000 of 1,001 trials; all are in x.csv."
        )


def test_the_command_trains_that_configuration(sweep: tuple[SweepSpec, SweepStore, Path]) -> None:
    import shlex

    spec, _, file = sweep
    plan = spec.plans[4]
    words = shlex.split(reproducing_command(spec, plan.swept))
    assert words[:3] == ["python", "runner.py", str(file)]
    settings = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    again = load_spec(file, settings)
    assert again.name == "hostile-best"
    assert [found.signature for found in again.plans] == [found.signature for found in spec.plans[3:6]]


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        reported_sweep(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_it_writes_the_same_bytes_twice(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        formats = [word for name in ("html", "csv", "json", "latex") for word in ("--format", name)]
        seen = []
        for _ in range(2):
            assert runner.main(["report", "hostile.yaml", *formats]) == 0
            names = ("report.html", "leaderboard.csv", "per_class_ap.csv", "report.json", "report.tex")
            seen.append([(folder / "results/hostile" / name).read_bytes() for name in names])
        assert seen[0] == seen[1]
        assert "written: results/hostile/report.tex" in capsys.readouterr().out
        values = json.loads(seen[0][3])
        assert values["statistics"]["split"] == "val"
        assert len(values["trials"]) == 27
        tex = seen[0][4].decode()
        assert r"\textless{}b\textgreater{}cat" in tex
        assert tex.count("\\\\\n") == 1 + 8, "a line for the head and for each configuration whose seeds are complete"

    def test_html_and_csv_by_default(self, folder: Path) -> None:
        assert runner.main(["report", "hostile.yaml"]) == 0
        written = {path.name for path in (folder / "results/hostile").iterdir() if path.is_file()}
        assert written >= {"report.html", "leaderboard.csv", "per_class_ap.csv"}
        assert not written & {"report.json", "report.tex"}

    def test_nothing_begun(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert runner.main(["report", "hostile.yaml", "--set", "name=other"]) == 2
        assert "no trial of other in results/other: there is nothing to report yet" in capsys.readouterr().err

    def test_two_sweeps_side_by_side(self, folder: Path) -> None:
        text = (folder / "hostile.yaml").read_text("utf-8")
        (folder / "other.yaml").write_text(text.replace("name: hostile", "name: other"), "utf-8")
        (folder / "results/hostile").rename(folder / "results/other")
        reported_sweep(folder)
        assert runner.main(["report", "hostile.yaml", "--compare", "other.yaml"]) == 0
        html = (folder / "results/hostile/report.html").read_text("utf-8")
        assert "Compared with other" in read(html).text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("seeds: 3", "seeds: 3\nobjective: {metric: corloc50/mean}"), "whose objective is corloc50/mean"),
            (("root: digits", "root: digits, eval: train"), "which is measured on split train of digits"),
        ],
    )
    def test_what_does_not_compare(
        self, folder: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
    ) -> None:
        text = (folder / "hostile.yaml").read_text("utf-8").replace("name: hostile", "name: other").replace(*change)
        (folder / "other.yaml").write_text(text, "utf-8")
        other = load_spec(folder / "other.yaml")
        plan = other.plans[0]
        SweepStore(folder / "results/other").create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
        assert runner.main(["report", "hostile.yaml", "--compare", "other.yaml"]) == 2
        assert message in capsys.readouterr().err

    def test_one_file_that_cannot_be_written_leaves_the_old_one(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = load_spec(folder / "hostile.yaml")
        store = SweepStore(folder / "results/hostile")
        found = entries(spec, store)
        statistics = sweep_statistics(spec, found)
        write_report(spec, store, found, statistics, formats=["html"])
        before = store.report.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_report(spec, store, found, statistics, formats=["html"])
        assert store.report.read_bytes() == before


class TestCells:
    def test_shades(self) -> None:
        assert shades([0.2, None, 0.4, 0.3]) == pytest.approx([0.0, None, 1.0, 0.5])
        assert shades([0.5, 0.5]) == [0.0, 0.0]
        assert shades([None]) == [None]
        assert shades([]) == []

    def test_long_text_has_all_of_it_in_its_title(self) -> None:
        assert text_cell("a" * 60) == Cell("a" * 60)
        assert text_cell("a" * 61) == Cell("a" * 59 + "…", title="a" * 61)
        assert text_cell("two\n lines") == Cell("two lines")

    def test_labels_are_no_markup(self) -> None:
        assert label("<b>&\n\x1b") == "&lt;b&gt;&amp; \\x1b"
        assert label("a" * 70) == "a" * 59 + "…"


def test_plotly_may_not_end_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    table = DataTable("t", "c", ("a",), ((Cell("1"),),))
    figure = Figure("f", "t", "a", ({"type": "bar", "x": ["</script>"]},), {}, table)
    html = page_html(Page("x", "", "s", (), (), (Section("s", "t", (FigurePart(figure),)),)))
    assert sum(tag == "script" for tag, _ in read(html).tags) == 3
