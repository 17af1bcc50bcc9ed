"""Whether the quickstart sweep shows what it promises: `python .ci/check_quickstart.py LEADERBOARD.csv`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

MIN_TRIALS = 6
MIN_BEST = 0.50
MAX_WORST_OF_BEST = 0.5


def main(leaderboard: Path) -> int:
    """Prints the figures; 0 when they hold."""
    with leaderboard.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = sorted(float(row["ap50_11pt/mean"]) for row in rows if row["state"] == "COMPLETE")
    trial_s = sum(float(row["duration_s"]) for row in rows)
    print(f"quickstart: {len(values)} of {len(rows)} trials complete, {trial_s:.0f} s of training")
    print(f"quickstart: ap50_11pt/mean best {values[-1]:.4f}, worst {values[0]:.4f}")
    holds = len(values) >= MIN_TRIALS and values[-1] >= MIN_BEST and values[0] <= MAX_WORST_OF_BEST * values[-1]
    if not holds:
        print(
            f"expected {MIN_TRIALS} trials, a best of {MIN_BEST}, the worst at most half of the best", file=sys.stderr
        )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
