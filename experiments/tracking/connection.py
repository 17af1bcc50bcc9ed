"""Whether, where and how a sweep is mirrored, told from the spec and the environment without importing wandb."""

from __future__ import annotations

import configparser
import netrc
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments.spec_document import WandbTracking

DEFAULT_PROJECT = "wsol"
DEFAULT_URL = "https://api.wandb.ai"
PROBE_S = 2.0

OF_ONE_RUN = frozenset(
    f"WANDB_{name}"
    for name in (
        *("RUN_ID", "RUN_NAME", "NAME", "RUN_GROUP", "JOB_TYPE", "TAGS", "NOTES", "DESCRIPTION", "PROJECT", "ENTITY"),
        *("SWEEP_ID", "SWEEP_PARAM_PATH", "RESUME", "RESUME_FROM", "FORK_FROM", "MODE", "DISABLED", "SERVICE"),
        *("CONFIG_PATHS", "LAUNCH", "LAUNCH_CONFIG_PATH", "PROGRAM", "RUN_DIR", "SILENT", "CONSOLE", "REINIT"),
    )
)
"""Variables that say what one run is: they are meant for a script that makes one, and the mirror makes many."""

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class Connection:
    """How a sweep is mirrored.

    Attributes:
        line: for people; empty where there is nothing to say.
        entity: empty: the account's own.
        is_asked_for: the spec or the environment asks for W&B, so it goes offline where it cannot go online.
        keeps_trying: stays online though the server cannot be reached.
    """

    mode: Mode
    line: str
    base_url: str
    project: str
    entity: str
    is_asked_for: bool
    keeps_trying: bool = False

    @property
    def host(self) -> str:
        """Of the server, for people."""
        return urllib.parse.urlsplit(self.base_url).netloc or self.base_url

    def offline(self, reason: str) -> Connection:
        """The same, after it was found that W&B cannot be written to. Who did not ask gets no files."""
        if self.is_asked_for:
            return replace(self, mode="offline", line=f"W&B: {reason}; writing offline runs, {_LATER}")
        return replace(self, mode="disabled", line=f"W&B: {reason}; nothing is sent, {_LATER}")


_LATER = "`python runner.py sync SPEC.yaml` sends all later"


def choose_connection(
    tracking: WandbTracking | None, environment: Mapping[str, str], *, home: Path, must_send: bool = False
) -> Connection:
    """What the spec, the variables of W&B and its files of keys come to. Asks no network.

    Args:
        tracking: of the spec; None where it says nothing.
        must_send: the user has asked to send now: only a missing key is in the way.
    """
    variable = environment.get("WANDB_MODE", "").lower()
    variable = {"dryrun": "offline", "run": "online"}.get(variable, variable)
    if _is_true(environment.get("WANDB_DISABLED", "")):
        variable = "disabled"
    wanted = tracking.mode if tracking is not None else "auto"
    found = Connection(
        mode="online",
        line="",
        base_url=base_url(environment, home),
        project=(tracking and tracking.project) or environment.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        entity=(tracking and tracking.entity) or environment.get("WANDB_ENTITY") or "",
        is_asked_for=tracking is not None or variable in ("online", "offline"),
        keeps_trying=wanted == "online" or (wanted == "auto" and variable == "online"),
    )
    if not must_send:
        if "disabled" in (wanted, variable):
            return replace(found, mode="disabled")
        if "offline" in (wanted, variable):
            why = "mode offline" if wanted == "offline" else "WANDB_MODE=offline"
            return replace(found, mode="offline", line=f"W&B: {why}: writing offline runs, {_LATER}")
    if not has_api_key(found.base_url, environment, home):
        return _without_key(found)
    return found


def _without_key(found: Connection) -> Connection:
    if not found.is_asked_for:
        return replace(found, mode="disabled")
    return found.offline(f"no API key for {found.host} in WANDB_API_KEY or ~/.netrc (`wandb login` puts it there)")


def base_url(environment: Mapping[str, str], home: Path) -> str:
    """The server's, as wandb finds it: a variable, else its settings file, else the hosted service."""
    if url := environment.get("WANDB_BASE_URL"):
        return url.rstrip("/")
    folder = Path(environment.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read_string((folder / "settings").read_text("utf-8"))
    except (OSError, ValueError, configparser.Error):
        return DEFAULT_URL
    return settings.get("default", "base_url", fallback=DEFAULT_URL).rstrip("/")


def has_api_key(url: str, environment: Mapping[str, str], home: Path) -> bool:
    """Whether there is a key for a server, right or wrong."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(url).hostname or ""
    named = environment.get("NETRC")
    files = [Path(named).expanduser()] if named else [home / ".netrc", home / "_netrc"]
    return any(_netrc_has(file, host) for file in files)


def _netrc_has(file: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False


def probe(url: str, *, connect: Callable[..., socket.socket] = socket.create_connection) -> str:
    """Whether the server, or the proxy before it, takes a connection within two seconds.

    wandb itself would wait for more than ten seconds, whatever its time-outs.

    Returns:
        Empty, or what is wrong, for people.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        connect((parts.hostname or "", port), timeout=PROBE_S).close()
    except (OSError, ValueError) as error:
        via = f" through proxy {parts.netloc.rpartition('@')[2]}" if parts.hostname != host else ""
        return f"{host} cannot be reached{via} ({error})"
    return ""


def without_run_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that writes many runs."""
    return {name: value for name, value in environment.items() if name not in OF_ONE_RUN}


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "1", "yes", "y", "t", "on")
