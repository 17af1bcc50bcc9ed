"""Files and texts from elsewhere run no code, draw nothing on the terminal, and take no secret with them."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from postgres_server import ESCAPED, PASSWORD, PostgresServer
from rich.console import Console

from experiments.errors import printable
from experiments.live_view import LiveView
from experiments.slots import cpu_slots
from experiments.view import PlainView
from wsol.config import check_class_names

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = [
    REPOSITORY / "runner.py",
    *sorted((REPOSITORY / "experiments").rglob("*.py")),
    *sorted((REPOSITORY / "wsol").rglob("*.py")),
]
DYNAMIC = (ast.JoinedStr, ast.BinOp)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def is_bad_load(name: str, call: ast.Call) -> bool:
    return name == "torch.load" and keywords(call).get("weights_only") != "True"


def is_bad_yaml(name: str, call: ast.Call) -> bool:
    if not name.startswith("yaml."):
        return False
    unsafe = {
        "yaml.load",
        "yaml.load_all",
        "yaml.unsafe_load",
        "yaml.full_load",
        "yaml.FullLoader",
        "yaml.UnsafeLoader",
    }
    return name in unsafe or (name == "yaml.compose" and "Loader" not in keywords(call))


def is_pickle(name: str, call: ast.Call) -> bool:
    first = name.partition(".")[0]
    loads = name.rpartition(".")[2] in ("load", "loads", "Unpickler", "read_pickle")
    pickled = first in ("pickle", "joblib", "shelve", "marshal", "dill", "cloudpickle") and loads
    return pickled or (name == "np.load" and keywords(call).get("allow_pickle") != "False")


def is_eval(name: str, call: ast.Call) -> bool:
    return name in ("eval", "exec", "os.system", "os.popen") or keywords(call).get("shell") == "True"


def is_markup(name: str, call: ast.Call) -> bool:
    """Rich reads `[red]` in plain strings, in tables as well: what is not written here must be a `Text`."""
    if keywords(call).get("markup") == "True" or name.endswith("from_markup"):
        return True
    if not name.endswith(("console.print", ".add_row", ".add_column")):
        return False
    numbers_only = {"f'trial {_number(entry)}'"}
    return any(isinstance(arg, DYNAMIC) and ast.unparse(arg) not in numbers_only for arg in call.args)


RULES = [is_bad_load, is_bad_yaml, is_pickle, is_eval, is_markup]


@pytest.mark.parametrize("rule", RULES)
def test_no_source_does(rule: Callable[[str, ast.Call], bool]) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}: {name}"
        for path in SOURCES
        for name, call in calls(ast.parse(path.read_text("utf-8")))
        if rule(name, call)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (is_bad_load, "torch.load(file)"),
        (is_bad_load, "torch.load(file, weights_only=False)"),
        (is_bad_yaml, "yaml.load(text, Loader=yaml.Loader)"),
        (is_bad_yaml, "yaml.compose(text)"),
        (is_pickle, "pickle.load(file)"),
        (is_pickle, "np.load(file)"),
        (is_pickle, "np.load(file, allow_pickle=True)"),
        (is_eval, "eval(text)"),
        (is_eval, "subprocess.run(text, shell=True)"),
        (is_markup, "console.print(f'{name}')"),
        (is_markup, "table.add_row('a', 'b' + name)"),
        (is_markup, "Console(markup=True)"),
    ],
)
def test_the_rules_find_it(rule: Callable[[str, ast.Call], bool], text: str) -> None:
    assert any(rule(name, call) for name, call in calls(ast.parse(text)))


HOSTILE = "\x1b]0;title\x07\x1b[2J[red]x[/red]\r\u202eabc\x9b1m"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_text_from_elsewhere_moves_nothing_on_the_terminal(terminal: bool) -> None:
    stream = io.StringIO()
    if terminal:
        console = Console(file=stream, force_terminal=False, width=200)
        LiveView(console=console, objective="x/mean", slots=lambda: cpu_slots(1, cores=1)).message(HOSTILE)
    else:
        PlainView(objective="x/mean", stream=stream).message(HOSTILE)
    written = stream.getvalue()
    assert "[red]x[/red]" in written
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(written)


def test_plain_text_stays() -> None:
    assert printable("é 漢字 \t a\nb") == "é 漢字 \t a\nb"


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "\u202ea"])
def test_class_names_are_printable(name: str) -> None:
    with pytest.raises(ValueError, match="expected class names of printable characters"):
        check_class_names(("cat", name))


@pytest.fixture
def diverging(tmp_path: Path) -> Path:
    """A spec whose one trial diverges, so that tracebacks are among the files."""
    spec = tmp_path / "tiny.yaml"
    spec.write_text(
        json.dumps(
            {
                "experiment": {
                    "task": "wsddn",
                    "data": {"root": str(tmp_path / "data")},
                    "proposals": {"source": "grid", "count": 5, "min_size_px": 8},
                    "model": {"backbone": "tiny", "weights": "none", "roi_size": 2, "fc_dim": 8},
                    "train": {"epochs": 1, "lr": 1e30, "scales_px": [48]},
                },
                "seeds": 1,
            }
        )
    )
    from wsol.data.digits import generate

    generate(tmp_path / "data", seed=0, train=2, val=2, test=1, image_px=48)
    return spec


def run_sweep(spec: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real command, with results beside the spec."""
    return subprocess.run(
        [sys.executable, "runner.py", spec, "--results", spec.parent / "results", "--cpu-slots", "1", *options],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def files_with(folder: Path, secrets: Sequence[str]) -> list[Path]:
    """How the source differs from its commit is left out: it may be this very test."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".diff"]
    return [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_secrets_reach_no_file_and_no_terminal(diverging: Path) -> None:
    """What the environment holds for other programs, and this one for its trackers."""
    secrets = {
        "WANDB_API_KEY": "s3cr3t-wandb-key",
        "DATABASE_URL": "postgresql://me:s3cr3t-password@host/db",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t-aws",
    }
    done = run_sweep(diverging, **secrets)
    assert done.returncode == 1, done.stdout + done.stderr
    results = diverging.parent / "results"
    assert len([path for path in results.rglob("*") if path.is_file()]) > 8
    assert "s3cr3t" not in done.stdout + done.stderr
    assert files_with(results, ["s3cr3t"]) == []


def test_a_databases_password_reaches_no_file_and_no_terminal(diverging: Path, postgres: PostgresServer) -> None:
    """By the option, by the environment; in a run, in the next one, in a refusal, in a dry run."""
    secrets = [PASSWORD, ESCAPED, "s3cr3t"]
    database = postgres.new_database()
    url, results = postgres.url(database), diverging.parent / "results"
    wrong = postgres.url(database, password=":s3cr3t%2Fword")
    runs = [
        (1, run_sweep(diverging, "--storage", url)),
        (1, run_sweep(diverging, "--retry-failed", WSOL_STORAGE=url)),
        (0, run_sweep(diverging, "--dry-run", WSOL_STORAGE=url)),
        (2, run_sweep(diverging, "--storage", wrong)),
        (2, run_sweep(diverging, WSOL_STORAGE=postgres.url(database, password=""), PGPASSWORD="s3cr3t")),
        (2, run_sweep(diverging, WSOL_STORAGE=wrong.replace(":s3cr3t%2F", ":s3cr3t@x/"))),
    ]
    assert [done.returncode for _, done in runs] == [status for status, _ in runs]
    for _, done in runs:
        assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    for _, done in runs[3:]:
        assert not re.search(r"\bword\b", done.stderr), "the end of a password that was not escaped"
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
    assert (results / "tiny" / "study.id").exists()
    assert files_with(results, secrets) == []
    kept = "SELECT study_name FROM studies UNION SELECT value_json FROM study_user_attributes"
    kept += " UNION SELECT value_json FROM trial_user_attributes"
    rows = postgres.sql(kept, database)
    assert len(rows) > 3
    assert not [row for row in rows if any(secret in row[0] for secret in secrets)]
