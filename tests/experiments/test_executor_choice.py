from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.executors.choice import check_choice
from experiments.executors.ray_connection import connected


@pytest.mark.parametrize(
    "given",
    [
        {"executor": "local", "ray_address": None, "gpus": None},
        {"executor": "local", "ray_address": None, "gpus": "0,1"},
        {"executor": "ray", "ray_address": None, "gpus": None},
        {"executor": "ray", "ray_address": "10.0.0.1:6379", "gpus": None},
    ],
)
def test_what_goes_together(given: dict[str, Any]) -> None:
    check_choice(**given)


def test_an_address_without_the_executor() -> None:
    with pytest.raises(UserError, match=r"^got --ray-address 10\.0\.0\.1:6379 without --executor ray; expected both"):
        check_choice(executor="local", ray_address="10.0.0.1:6379", gpus=None)


def test_positions_of_gpus_in_a_cluster() -> None:
    with pytest.raises(UserError, match=r"^got --gpus 0,2 with --executor ray; expected one of the two: .*--num-gpus"):
        check_choice(executor="ray", ray_address=None, gpus="0,2")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(UserError, match=r"Ray is not installed; install it by `pip install '\.\[ray\]'`$"),
        connected(None),
    ):
        pass


class TestAddress:
    @pytest.mark.parametrize("given", ["head", "head:", ":6379", "ray://head:10001", "head:port"])
    def test_that_is_none(self, given: str) -> None:
        with pytest.raises(UserError, match=rf"^got '{given}' for --ray-address; expected HOST:PORT"), connected(given):
            pass

    def test_where_nothing_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as bound:  # and not listening
            bound.bind(("127.0.0.1", 0))
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{bound.getsockname()[1]}")
            with (
                pytest.raises(UserError, match=r"for RAY_ADDRESS, where nothing answers .*`ray start --head`"),
                connected(None),
            ):
                pass

    def test_of_no_port_of_this_world(self) -> None:
        with pytest.raises(UserError, match="where nothing answers"), connected("127.0.0.1:99999"):
            pass
