"""A process that promises memory of one simulated GPU, again and again, as a sweep does: look, decide, publish.

What it does is in an audit log, a line each: `in PID` and `out PID OWN OTHERS` within the claims; a byte a round goes
to the standard output. It ends with its standard input.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

from experiments.claims import SharedClaims
from experiments.device_monitor import Claim

GPU = "/GPU-0"
CAPACITY = 24 * 10**9


def main(folder: Path, audit: Path, mode: str, user: int) -> None:
    """`mode`: `loop`; `stop`: stops itself (SIGSTOP) at its first promise; `child`: leaves a process behind."""
    log = os.open(audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if user != os.geteuid():
        os.setresuid(user, user, user)
    rng, pid, own = random.Random(os.getpid()), os.getpid(), 0
    shared = SharedClaims(folder, wait_s=60.0)
    while not select.select([0], [], [], 0)[0]:
        with shared.taken() as claims:
            assert claims is not None
            os.write(log, f"in {pid}\n".encode())
            others = claims.of_others[GPU].promised_bytes if GPU in claims.of_others else 0
            wanted = rng.randrange(CAPACITY)
            own = wanted if others + wanted <= CAPACITY else min(own, CAPACITY - others)
            claims.publish({GPU: Claim(promised_bytes=own, used_bytes=own // 2)})
            if mode == "stop":
                os.kill(pid, signal.SIGSTOP)
                mode = "loop"
            os.write(log, f"out {pid} {own} {others}\n".encode())
        if mode == "child":
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            os.write(log, f"child {child.pid}\n".encode())
            mode = "loop"
        os.write(1, b".")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
