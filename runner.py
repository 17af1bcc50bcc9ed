"""The command line: `python runner.py sweeps/x.yaml` and its relatives. Nothing else lives here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

USAGE = """\
python runner.py SPEC.yaml [options]           run a sweep, or what is left of it
       python runner.py evaluate SPEC.yaml [options]  measure its finished trials again, by other metrics too
       python runner.py predict SPEC.yaml IMAGE...    show what its best trial finds in images
       python runner.py data voc2007 --root DIR       download PASCAL VOC 2007"""

EPILOG = """\
The same command, after any stop, goes on where it stopped; what finished never runs again.
Ctrl-C once: running trials save and stop. Twice: now.

exit status: 0 every trial is complete, 1 a trial failed, 2 the spec or the command line is wrong
(nothing was started), 130 interrupted (everything is saved)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = {"data": _data, "evaluate": _evaluate, "predict": _predict}.get(given[0] if given else "", _sweep)
    try:
        return command(given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stderr.close()
        return 1


def _sweep(given: list[str]) -> int:
    options = _sweep_parser().parse_args(given)
    from experiments.sweep import Options, run

    return _or_message(
        lambda: run(
            options.spec,
            Options(
                results=options.results,
                dry_run=options.dry_run,
                retry_failed=options.retry_failed,
                gpus=options.gpus,
                cpu_slots=options.cpu_slots,
            ),
        )
    )


def _data(given: list[str]) -> int:
    options = _data_parser().parse_args(given[1:])
    from experiments.download import download_voc2007

    return _or_message(lambda: download_voc2007(options.root))


def _evaluate(given: list[str]) -> int:
    options = _evaluate_parser().parse_args(given[1:])
    from experiments.evaluate import EvaluateOptions, evaluate

    return _or_message(
        lambda: evaluate(
            options.spec,
            EvaluateOptions(results=options.results, metrics=tuple(options.metric), csv=options.csv),
        )
    )


def _predict(given: list[str]) -> int:
    options = _predict_parser().parse_args(given[1:])
    from experiments.predict import Options, predict

    return _or_message(
        lambda: predict(
            options.spec,
            options.images,
            Options(results=options.results, trial=options.trial, out=options.out, top=options.top),
        )
    )


def _or_message(run: Callable[[], int]) -> int:
    """A fault of the user's input is one message and exit status 2, never a traceback."""
    from experiments.errors import UserError

    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _sweep_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner.py",
        usage=USAGE,
        description="Sweeps for weakly supervised object localization: trains every configuration of a spec, "
        "prints a leaderboard and per-class AP.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="what to sweep; see docs/sweep-spec.md")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the trials and what is done already; start nothing"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again, each from its checkpoint")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="0,2", help="the GPUs to use, one trial each (default: all that are visible)")
    where.add_argument("--cpu-slots", type=_positive, metavar="N", help="train on the CPU, N trials at a time")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all sweeps (default: results)"
    )
    return parser


def _data_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runner.py data", allow_abbrev=False)
    parser.add_argument("data_set", choices=["voc2007"], help="what to download (about 900 MB for voc2007)")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the data go to DIR/VOCdevkit/VOC2007")
    return parser


def _evaluate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner.py evaluate",
        description="Measures the finished trials of a sweep again, from the detections that each keeps and the "
        "annotations of its eval split. Trains nothing and changes nothing in the results.",
        epilog="exit status: 0 every complete trial was measured, 1 one could not be or there is none, 2 the spec or "
        "the command line is wrong",
        allow_abbrev=False,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the sweep")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="such as ap30_area, see docs/protocol.md; may be repeated, the first one ranks (default: the objective's)",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all sweeps (default: results)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every trial, class and metric to this file")
    return parser


def _predict_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner.py predict",
        description="Shows what the best complete trial of a sweep finds in images: a picture of each with boxes and "
        "heat maps, and all detections as JSON on standard output.",
        epilog="exit status: 0 done, 2 the spec, the command line, an image or the trial's files are wrong",
        allow_abbrev=False,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the sweep")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--trial", type=int, metavar="N", help="this trial (default: the best by the objective)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the pictures (default: predictions in the sweep's folder)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all sweeps (default: results)"
    )
    parser.add_argument(
        "--top", type=_positive, default=3, metavar="K", help="heat maps of the K likeliest classes (default: 3)"
    )
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
