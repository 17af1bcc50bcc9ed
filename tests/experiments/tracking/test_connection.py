"""Whether, where and how a sweep is mirrored."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from experiments.spec_document import WandbTracking
from experiments.tracking.connection import (
    DEFAULT_URL,
    OF_ONE_RUN,
    Connection,
    base_url,
    choose_connection,
    has_api_key,
    probe,
    without_run_variables,
)

KEY = {"WANDB_API_KEY": "a" * 40}


def chosen(
    tmp_path: Path, tracking: WandbTracking | None, environment: dict[str, str], *, must_send: bool = False
) -> Connection:
    return choose_connection(tracking, environment, home=tmp_path, must_send=must_send)


@pytest.mark.parametrize(
    ("mode", "environment", "expected", "says"),
    [
        (None, {}, "disabled", ""),  # nobody asked for it, and there is no key
        (None, KEY, "online", ""),
        (None, {"WANDB_MODE": "online"}, "offline", "no API key for api.wandb.ai"),
        (None, {"WANDB_MODE": "offline"}, "offline", "WANDB_MODE=offline"),
        (
            "auto",
            {},
            "offline",
            "no API key for api.wandb.ai in WANDB_API_KEY or ~/.netrc (`wandb login` puts it there)",
        ),
        ("auto", KEY, "online", ""),
        ("online", KEY, "online", ""),
        ("online", {}, "offline", "no API key"),
        ("offline", KEY, "offline", "mode offline"),
        ("offline", {**KEY, "WANDB_MODE": "online"}, "offline", "mode offline"),
        ("disabled", {**KEY, "WANDB_MODE": "online"}, "disabled", ""),
        *((mode, {**KEY, "WANDB_MODE": "disabled"}, "disabled", "") for mode in (None, "auto", "online", "offline")),
        *((mode, {**KEY, "WANDB_DISABLED": "true"}, "disabled", "") for mode in (None, "auto", "online", "offline")),
        ("auto", {**KEY, "WANDB_DISABLED": "false"}, "online", ""),
        ("online", {**KEY, "WANDB_MODE": "DryRun"}, "offline", "WANDB_MODE=offline"),
        ("auto", {**KEY, "WANDB_MODE": "whatever"}, "online", ""),
    ],
)
def test_modes(tmp_path: Path, mode: str | None, environment: dict[str, str], expected: str, says: str) -> None:
    tracking = None if mode is None else WandbTracking.model_validate({"mode": mode})
    found = chosen(tmp_path, tracking, environment)
    assert found.mode == expected
    assert says in found.line
    assert bool(found.line) == bool(says)
    assert "\n" not in found.line
    if expected == "offline":
        assert "`python runner.py sync SPEC.yaml`" in found.line


@pytest.mark.parametrize("mode", ["disabled", "offline", "auto"])
def test_who_sends_now_needs_but_a_key(tmp_path: Path, mode: str) -> None:
    tracking = WandbTracking.model_validate({"mode": mode})
    assert chosen(tmp_path, tracking, {**KEY, "WANDB_MODE": "offline"}, must_send=True).mode == "online"
    assert chosen(tmp_path, tracking, {}, must_send=True).mode == "offline"
    assert chosen(tmp_path, None, {}, must_send=True).mode == "disabled"


def test_who_keeps_trying(tmp_path: Path) -> None:
    online = WandbTracking(mode="online")
    assert chosen(tmp_path, online, KEY).keeps_trying
    assert chosen(tmp_path, WandbTracking(), {**KEY, "WANDB_MODE": "online"}).keeps_trying
    assert not chosen(tmp_path, WandbTracking(), KEY).keeps_trying


def test_places(tmp_path: Path) -> None:
    variables = {**KEY, "WANDB_PROJECT": "theirs", "WANDB_ENTITY": "them"}
    found = chosen(tmp_path, WandbTracking(), variables)
    assert (found.project, found.entity, found.base_url) == ("theirs", "them", DEFAULT_URL)
    found = chosen(tmp_path, WandbTracking(project="mine", entity="me"), variables)
    assert (found.project, found.entity) == ("mine", "me")
    found = chosen(tmp_path, None, KEY)
    assert (found.project, found.entity) == ("wsol", "")


def test_offline_is_for_who_asked(tmp_path: Path) -> None:
    asked, not_asked = chosen(tmp_path, WandbTracking(), KEY), chosen(tmp_path, None, KEY)
    assert asked.offline("it rains").mode == "offline"
    assert asked.offline("it rains").line.startswith("W&B: it rains; writing offline runs, ")
    assert not_asked.offline("it rains").mode == "disabled"
    assert not_asked.offline("it rains").line.startswith("W&B: it rains; nothing is sent, ")


class TestBaseUrl:
    def test_of_the_variable(self, tmp_path: Path) -> None:
        assert base_url({"WANDB_BASE_URL": "https://here/"}, tmp_path) == "https://here"

    def test_of_the_settings(self, tmp_path: Path) -> None:
        folder = tmp_path / ".config" / "wandb"
        folder.mkdir(parents=True)
        (folder / "settings").write_text("[default]\nbase_url = https://there\n")
        assert base_url({}, tmp_path) == "https://there"
        assert base_url({"WANDB_CONFIG_DIR": str(tmp_path)}, tmp_path) == DEFAULT_URL

    @pytest.mark.parametrize("text", ["", "[default]\n", "no section", "[default]\nbase_url\n", "\xff"])
    def test_of_settings_that_say_nothing(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "settings").write_bytes(text.encode("latin-1"))
        assert base_url({"WANDB_CONFIG_DIR": str(tmp_path)}, tmp_path) == DEFAULT_URL


class TestKey:
    @pytest.mark.parametrize("name", [".netrc", "_netrc"])
    def test_in_a_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("machine api.wandb.ai\n  login user\n  password secret\n")
        assert has_api_key(DEFAULT_URL, {}, tmp_path)
        assert not has_api_key("https://other", {}, tmp_path)

    def test_in_a_file_that_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("machine localhost login user password secret\n")
        assert has_api_key("http://localhost:8080", {"NETRC": str(tmp_path / "keys")}, tmp_path)

    @pytest.mark.parametrize("text", [b"machine", b"\xff\xfe", b"", b"nonsense here"])
    def test_in_no_such_file(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / ".netrc").write_bytes(text)
        assert not has_api_key(DEFAULT_URL, {}, tmp_path)

    def test_an_empty_variable_is_none(self, tmp_path: Path) -> None:
        assert not has_api_key(DEFAULT_URL, {"WANDB_API_KEY": ""}, tmp_path)
        assert has_api_key(DEFAULT_URL, {"WANDB_IDENTITY_TOKEN_FILE": "token"}, tmp_path)


class TestProbe:
    @pytest.fixture(autouse=True)
    def no_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    def test_of_a_port_that_is_open(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert probe(f"http://127.0.0.1:{listener.getsockname()[1]}") == ""

    def test_of_one_that_is_closed(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert "127.0.0.1 cannot be reached (" in probe(f"http://127.0.0.1:{port}")

    @pytest.mark.parametrize(
        ("url", "variables", "expected"),
        [
            ("https://api.wandb.ai", {}, ("api.wandb.ai", 443)),
            ("http://local", {}, ("local", 80)),
            ("http://local:8080", {}, ("local", 8080)),
            ("https://api.wandb.ai", {"https_proxy": "http://me:secret@proxy:3128"}, ("proxy", 3128)),
            ("https://api.wandb.ai", {"https_proxy": "proxy:3128"}, ("proxy", 3128)),
            ("https://api.wandb.ai", {"http_proxy": "http://proxy:3128"}, ("api.wandb.ai", 443)),
            ("http://local", {"http_proxy": "http://proxy:3128", "no_proxy": "local"}, ("local", 80)),
        ],
    )
    def test_whom_it_asks(
        self, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], expected: tuple[str, int]
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        asked = []

        def refuse(address: tuple[str, int], *, timeout: float) -> socket.socket:
            asked.append((address, timeout))
            raise TimeoutError("timed out")

        said = probe(url, connect=refuse)
        assert asked == [(expected, 2.0)]
        assert "timed out" in said
        assert "secret" not in said

    def test_of_nonsense(self) -> None:
        assert "cannot be reached" in probe("")


def test_variables_of_one_run_are_left_out() -> None:
    kept = {"WANDB_API_KEY": "k", "WANDB_BASE_URL": "u", "WANDB_DIR": "d", "HOME": "h", "HTTPS_PROXY": "p"}
    assert without_run_variables({**kept, "WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r"}) == kept
    assert without_run_variables(dict.fromkeys(OF_ONE_RUN, "x")) == {}
