"""What all trials of a sweep share, made once before the first one starts: generated data, proposals.

It runs in a process of its own, so that the runner stays small, and reports progress over a pipe.
"""

from __future__ import annotations
