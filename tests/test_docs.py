"""The documents say what is: generated tables are fresh, links lead somewhere, commands and snippets work."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "results" / "README.md"])


def test_the_tables_of_keys_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("config_keys", REPOSITORY / "docs" / "config_keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == (REPOSITORY / "docs" / "sweep-spec.md").read_text("utf-8"), "run python docs/config_keys.py"
    rows = [*module.spec_table().splitlines(), *module.config_table().splitlines()]
    assert [row for row in rows if "|  |" in row] == [], "a key without a text"
    keys = {row.split("`")[1] for row in rows if "`" in row}
    assert keys >= {"search[].grid", "search[].sample.<key>.log_uniform", "pruner.asha.min_epochs", "train.lr"}
    assert not [row for row in rows if row.startswith("| `experiment.")], "config keys have a table of their own"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
