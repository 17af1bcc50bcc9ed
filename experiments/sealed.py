"""JSON values that carry a checksum: a file that was torn or whose bits have turned is told from one that is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "checksum"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with their checksum, as the last key."""
    return {**values, KEY: _checksum(values)}


def opened(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values without their checksum; None where it is not theirs. Those without one are taken as they are."""
    rest = {key: value for key, value in values.items() if key != KEY}
    return rest if KEY not in values or values[KEY] == _checksum(rest) else None


def _checksum(values: Mapping[str, Any]) -> str:
    """16 hex digits, of the values whatever their order and spelling."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
