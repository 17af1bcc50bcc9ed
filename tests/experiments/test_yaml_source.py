from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import SpecError
from experiments.yaml_source import YamlSource, read_yaml


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], YamlSource]:
    def read(content: str | bytes) -> YamlSource:
        file = tmp_path / "x.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_yaml(file)

    return read


@pytest.fixture
def refusal(read: Callable[[str | bytes], YamlSource], tmp_path: Path) -> Callable[[str | bytes], str]:
    def refusal(content: str | bytes) -> str:
        with pytest.raises(SpecError, match=r"x\.yaml") as error:
            read(content)
        return str(error.value).removeprefix(f"{tmp_path}/")

    return refusal


class TestScalars:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-5", 1e-5),
            ("1.0e-5", 1e-5),
            ("1E5", 1e5),
            ("+1.5e+3", 1500.0),
            ("-.5", -0.5),
            ("1.", 1.0),
            ("-0.0", -0.0),
            ("12", 12),
            ("-7", -7),
            ("+3", 3),
            ("007", 7),  # YAML 1.1 reads octal
            ("true", True),
            ("False", False),
            ("null", None),
            ("~", None),
            ("", None),
            # what YAML 1.1 makes of these has cost many people an evening
            ("no", "no"),
            ("on", "on"),
            ("Yes", "Yes"),
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("0x10", "0x10"),
            ("0o17", "0o17"),
            ("2012-12-12", "2012-12-12"),
            ("1e", "1e"),
            (".", "."),
            ("e5", "e5"),
            ("=", "="),
            ("'1'", "1"),
            ('"true"', "true"),
            ("''", ""),
        ],
    )
    def test_core_schema(self, read: Callable[[str], YamlSource], text: str, value: object) -> None:
        found = read(f"key: {text}\n").value["key"]
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "+.INF", "1e999", "-1e999"])
    def test_numbers_that_are_not_finite(self, refusal: Callable[[str], str], text: str) -> None:
        assert refusal(f"a: 1\nkey: {text}\n") == f"x.yaml:2: got {text}; expected a finite number"

    def test_an_integer_of_more_digits_than_python_reads(self, refusal: Callable[[str], str]) -> None:
        message = refusal("key: " + "9" * 5000)
        assert message.endswith("...; expected a value of type int")
        assert len(message) < 200

    @settings(max_examples=60, deadline=None)
    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**30), 10**30)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(st.characters(categories=["L", "N"]), max_size=20), inner, max_size=4)
            ),
            max_leaves=12,
        )
    )
    def test_json_means_the_same(self, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
        file = tmp_path_factory.getbasetemp() / "json.yaml"
        file.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
        found = read_yaml(file).value
        assert found == data
        assert json.dumps(found) == json.dumps(data)  # 1 == 1.0 == True, but not here


class TestLines:
    TEXT = """\
# a comment

a:
  b: 1
  c:
    - x
    - {d: 2,
       e: 3}
f: [1,
  2]
"""

    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ((), 3),
            (("a",), 3),
            (("a", "b"), 4),
            (("a", "c"), 5),
            (("a", "c", 0), 6),
            (("a", "c", 1), 7),
            (("a", "c", 1, "d"), 7),
            (("a", "c", 1, "e"), 8),
            (("f", 0), 9),
            (("f", 1), 10),
            # what the file does not have: the nearest ancestor
            (("a", "nothing"), 3),
            (("a", "c", 7, "x"), 5),
            (("nothing", "at", "all"), 3),
        ],
    )
    def test_of_keys_and_items(self, read: Callable[[str], YamlSource], path: tuple[str | int, ...], line: int) -> None:
        assert read(self.TEXT).place(path).line == line

    def test_a_byte_order_mark_and_crlf_move_nothing(self, read: Callable[[bytes], YamlSource]) -> None:
        source = read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
        assert source.value == {"a": 1, "b": 2}
        assert source.place(("b",)).line == 2
        assert source.text.startswith("a: 1")

    def test_an_alias_stands_where_its_anchor_does(self, read: Callable[[str], YamlSource]) -> None:
        source = read("rates: &rates\n  - 0.1\nother: *rates\n")
        assert source.value == {"rates": [0.1], "other": [0.1]}
        assert source.place(("other",)).line == 3
        assert source.place(("other", 0)).line == 2


class TestRefused:
    def test_a_duplicate_key_names_both_lines(self, refusal: Callable[[str], str]) -> None:
        text = "a:\n  lr: 1\n  epochs: 3\n  lr: 2\n"
        assert refusal(text) == "x.yaml:4: got key 'lr' twice (first in line 2); expected each key once"

    def test_the_same_key_in_two_places_is_fine(self, read: Callable[[str], YamlSource]) -> None:
        assert read("a: {x: 1}\nb: {x: 1}\n").value == {"a": {"x": 1}, "b": {"x": 1}}

    def test_keys_are_duplicates_by_their_text(self, refusal: Callable[[str], str]) -> None:
        assert "got key '1' twice" in refusal("1: a\n'1': b\n")

    def test_a_tab(self, refusal: Callable[[str], str]) -> None:
        assert refusal("a:\n\tb: 1\n") == (
            "x.yaml:2: not readable as YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, YAML allows no tabs"
        )

    def test_a_bracket_that_is_never_closed_names_where_it_opens(self, refusal: Callable[[str], str]) -> None:
        message = refusal("a: 1\nb: [1,\n  2\nc: 3\n")
        assert re.match(r"x\.yaml:[45]: not readable as YAML: .*flow sequence that starts in line 2\)$", message)

    def test_two_documents(self, refusal: Callable[[str], str]) -> None:
        assert refusal("a: 1\n---\nb: 1\n") == (
            "x.yaml:2: not readable as YAML: expected a single document in the stream, but found another document"
        )

    @pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
    def test_an_empty_file(self, refusal: Callable[[str], str], text: str) -> None:
        assert refusal(text) == "x.yaml: the file is empty; expected a sweep spec"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"a: \xff\n", "x.yaml: not UTF-8 text: invalid start byte at byte 3"),
            ("a: é\n".encode("latin-1"), "x.yaml: not UTF-8 text: "),
            ("a: 1\n".encode("utf-16"), "x.yaml: not UTF-8 text: "),
            (b"a: 1\nb: \x07\n", r"x.yaml:2: got the control character '\x07'; expected printable text"),
            (b"a: \x00", r"x.yaml:1: got the control character '\x00'; expected printable text"),
            (b'a: 1\nb: "\\ud800"\n', r"x.yaml:2: got '\ud800'; expected text without surrogates"),
            (b'a: 1\n"\\udfff": 1\n', r"x.yaml:2: got '\udfff'; expected text without surrogates"),
        ],
    )
    def test_what_is_no_text(self, refusal: Callable[[bytes], str], content: bytes, problem: str) -> None:
        assert refusal(content).startswith(problem)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("a: !!python/object/apply:os.system [ls]\n", "python/object/apply:os.system; expected plain YAML"),
            ("a: !!python/name:os.system\n", "python/name:os.system; expected plain YAML"),
            ("a: !!set {x, y}\n", "got tag tag:yaml.org,2002:set; expected plain YAML"),
            ("a: !mine {x: 1}\n", "got tag !mine; expected plain YAML"),
            ("a: !mine [1]\n", "got tag !mine; expected plain YAML"),
            ("a: !mine 1\n", "got tag !mine; expected plain YAML"),
            ("a: !!binary aGVsbG8=\n", "got tag tag:yaml.org,2002:binary; expected plain YAML"),
            ("a: !!timestamp 2012-12-12\n", "got tag tag:yaml.org,2002:timestamp; expected plain YAML"),
            ("a: !!int three\n", "got 'three'; expected a value of type int"),
            ("a: &x {b: 1}\nc: {<<: *x}\n", "got the merge key <<; write the keys out"),
            ("? [a, b]\n: 1\n", "got a key that is not text"),
            ("a: *nothing\n", "found undefined alias 'nothing'"),
            ("a: &x [*x]\n", "nested too deeply; expected at most 50 levels"),
            ("%YAML 3.0\n---\na: 1\n", "incompatible YAML document"),
        ],
    )
    def test_what_is_not_plain(self, refusal: Callable[[str], str], text: str, problem: str) -> None:
        assert problem in refusal(text)

    def test_a_folder_and_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"not a file$"):
            read_yaml(tmp_path)
        with pytest.raises(SpecError, match=r"nothing\.yaml: no such file$"):
            read_yaml(tmp_path / "nothing.yaml")
        (tmp_path / "quickstart.yaml").touch()
        with pytest.raises(SpecError, match=r"quikstart\.yml: no such file; did you mean quickstart\.yaml\?$"):
            read_yaml(tmp_path / "quikstart.yml")
        with pytest.raises(SpecError, match=r"cannot be read: File name too long$"):
            read_yaml(tmp_path / ("x" * 1000))


class TestLimits:
    def test_depth(self, read: Callable[[str], YamlSource], refusal: Callable[[str], str]) -> None:
        assert read("[" * 51 + "]" * 51).value is not None  # the innermost list is 50 levels below the outermost
        assert refusal("[" * 52 + "]" * 52) == "x.yaml:1: nested too deeply; expected at most 50 levels"

    def test_depth_that_exhausts_the_parser(self, refusal: Callable[[str], str]) -> None:
        assert refusal("[" * 1000 + "]" * 1000) == "x.yaml: nested too deeply; expected at most 50 levels"

    def test_aliases_that_multiply(self, refusal: Callable[[str], str]) -> None:
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        message = refusal("\n".join(levels))  # 10 ** 9 values from 500 characters
        assert "more than 100,000 values (aliases count each time they are used)" in message

    def test_values(self, read: Callable[[str], YamlSource], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("experiments.yaml_source.MAX_VALUES", 5)
        assert read("[1, 2, 3, 4]").value == [1, 2, 3, 4]  # five with the list itself
        with pytest.raises(SpecError, match="more than 5 values"):
            read("[1, 2, 3, 4, 5]")

    def test_bytes(self, read: Callable[[str], YamlSource], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("experiments.yaml_source.MAX_FILE_BYTES", 10)
        assert read("a: 456789\n").value == {"a": 456789}
        with pytest.raises(SpecError, match="got 11 bytes; expected a spec of at most 10 bytes"):
            read("a: 4567890\n")

    def test_a_large_file_is_not_even_read(self, tmp_path: Path) -> None:
        file = tmp_path / "x.yaml"
        with file.open("wb") as stream:
            stream.truncate(10**12)  # sparse
        with pytest.raises(SpecError, match="got 1,000,000,000,000 bytes; expected a spec of at most 1,000,000 bytes"):
            read_yaml(file)
