"""The command line: `python runner.py sweeps/x.yaml` and its relatives. Nothing else lives here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

USAGE = """\
python runner.py SPEC.yaml [options]           run a sweep, or what is left of it
       python runner.py evaluate SPEC.yaml [options]  measure its finished trials again, by other metrics too
       python runner.py predict SPEC.yaml IMAGE...    show what its best trial finds in images
       python runner.py schema                        print the JSON schema of specs, for editors
       python runner.py data voc2007 --root DIR       download PASCAL VOC 2007"""

EPILOG = """\
The same command, after any stop, goes on where it stopped; what finished never runs again.
Ctrl-C once: running trials save and stop. Twice: now.

exit status: 0 every trial is complete, 1 a trial failed, 2 the spec or the command line is wrong
(nothing was started), 130 interrupted (everything is saved)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. A fault of the user's input is a message, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"data": _data, "evaluate": _evaluate, "predict": _predict, "schema": _schema}
    name = given.pop(0) if given and given[0] in commands else ""
    try:
        command = commands.get(name, _sweep)(given)
        from experiments.errors import UserError

        try:
            return command()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stderr.close()
        return 1


def _sweep(given: list[str]) -> Callable[[], int]:
    fields = _fields(_sweep_parser(), given)
    from experiments.sweep import Options, run

    return lambda: run(fields.pop("spec"), Options(**fields))


def _data(given: list[str]) -> Callable[[], int]:
    fields = _fields(_data_parser(), given)
    from experiments.download import download_voc2007

    return lambda: download_voc2007(fields["root"])


def _evaluate(given: list[str]) -> Callable[[], int]:
    fields = _fields(_evaluate_parser(), given)
    from experiments.evaluate import EvaluateOptions, evaluate

    return lambda: evaluate(fields.pop("spec"), EvaluateOptions(**fields))


def _predict(given: list[str]) -> Callable[[], int]:
    fields = _fields(_predict_parser(), given)
    from experiments.predict import Options, predict

    return lambda: predict(fields.pop("spec"), fields.pop("images"), Options(**fields))


def _schema(given: list[str]) -> Callable[[], int]:
    argparse.ArgumentParser(prog="runner.py schema", description="Prints the JSON schema of specs.").parse_args(given)
    from experiments.schema import schema_text

    return lambda: print(schema_text(), end="") or 0


def _fields(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, Any]:
    """The options by the names of the fields that take them; what may be repeated as a tuple."""
    options = vars(parser.parse_args(given))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


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
    _add_spec(parser, "what to sweep; see docs/sweep-spec.md")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the trials and what is done already; start nothing"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again, each from its checkpoint")
    parser.add_argument(
        "--continue-pruned", action="store_true", help="run pruned trials to their end, each from its checkpoint"
    )
    parser.add_argument(
        "--no-reuse", dest="reuse", action="store_false", help="run trials that other sweeps have finished, too"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="0,2", help="the GPUs to use, one trial each (default: all that are visible)")
    where.add_argument("--cpu-slots", type=_positive, metavar="N", help="train on the CPU, N trials at a time")
    return parser


def _add_spec(parser: argparse.ArgumentParser, text: str) -> None:
    """The arguments of every command that takes a spec."""
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help=text)
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the spec (seeds=[0,1]) or of what all trials share (train.epochs=3); may be repeated",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all sweeps (default: results)"
    )


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
    _add_spec(parser, "the sweep")
    parser.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        metavar="NAME",
        help="such as ap30_area, see docs/protocol.md; may be repeated, the first one ranks (default: the objective's)",
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
    _add_spec(parser, "the sweep")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--trial", type=int, metavar="N", help="this trial (default: the best by the objective)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the pictures (default: predictions in the sweep's folder)"
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
