"""The options of every command, for runner.py. Imports nothing but argparse, so that --help is there at once."""

from __future__ import annotations

import argparse
from pathlib import Path

USAGE = """\
python runner.py SPEC.yaml [options]           run a sweep, or what is left of it
       python runner.py report SPEC.yaml [options]    its tables and its page, while it runs or afterwards
       python runner.py status SPEC.yaml              how far it has come, while it runs or afterwards
       python runner.py evaluate SPEC.yaml [options]  measure its finished trials again, by other metrics too
       python runner.py predict SPEC.yaml IMAGE...    show what its best trial finds in images
       python runner.py sync SPEC.yaml                send to W&B what was not sent while it ran
       python runner.py gc SPEC.yaml [options]        remove what it does not need on the disk
       python runner.py schema                        print the JSON schema of specs, for editors
       python runner.py data voc2007 --root DIR       download PASCAL VOC 2007"""

EPILOG = """\
The same command, after any stop, goes on where it stopped; what finished never runs again.
Ctrl-C once: running trials save and stop. Twice: now.

exit status: 0 every trial is complete, 1 a trial failed, 2 the spec or the command line is wrong
(nothing was started), 130 interrupted (everything is saved)."""


def sweep_parser() -> argparse.ArgumentParser:
    """Of `runner.py SPEC`. Its options have the names of the fields that take them."""
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
    parser.add_argument(
        "--no-report",
        dest="report",
        action="store_false",
        help="end with the tables: no statistics, no report.html (runner.py report makes them later)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again, each from its checkpoint")
    parser.add_argument(
        "--continue-pruned", action="store_true", help="run pruned trials to their end, each from its checkpoint"
    )
    parser.add_argument(
        "--no-reuse", dest="reuse", action="store_false", help="run trials that other sweeps have finished, too"
    )
    parser.add_argument(
        "--code",
        choices=["keep", "new"],
        help="where the source, packages or data of a begun sweep have changed. keep: go on with the source that was "
        "stored; new: run all trials anew with the present one",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="PostgreSQL database that keeps the study, postgresql+psycopg://USER@HOST/DATABASE (default: WSOL_STORAGE,"
        " which hides a password from ps; else a file in the sweep's folder); see docs/postgresql.md",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="0,2", help="GPUs to use, as positions among the visible ones (default: all)")
    where.add_argument(
        "--cpu-slots",
        type=_positive,
        metavar="N",
        help="train on the CPU, N trials at a time (of a cluster: a node)",
    )
    parser.add_argument(
        "--executor",
        choices=["local", "ray"],
        default="local",
        help="where trials run: on this machine (default), or on a Ray cluster, see docs/clusters.md",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the cluster's head (default: $RAY_ADDRESS, else the cluster that runs on this machine)",
    )
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


def data_parser() -> argparse.ArgumentParser:
    """Of `runner.py data`. Its options have the names of the fields that take them."""
    parser = argparse.ArgumentParser(prog="runner.py data", allow_abbrev=False)
    parser.add_argument("data_set", choices=["voc2007"], help="what to download (about 900 MB for voc2007)")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the data go to DIR/VOCdevkit/VOC2007")
    return parser


def report_parser() -> argparse.ArgumentParser:
    """Of `runner.py report`. Its options have the names of the fields that take them."""
    parser = argparse.ArgumentParser(
        prog="runner.py report",
        description="Prints the tables of a sweep and writes its page, report.html, into its folder: one file that "
        "needs no network. While the sweep runs or afterwards.",
        epilog="exit status: 0 done, 1 W&B could not be reached, 2 a spec or the command line is wrong, or nothing was "
        "begun yet",
        allow_abbrev=False,
    )
    _add_spec(parser, "the sweep")
    parser.add_argument(
        "--format",
        dest="formats",
        action="append",
        default=[],
        choices=["html", "csv", "json", "latex"],
        help="what to write; may be repeated (default: html and csv)",
    )
    parser.add_argument(
        "--wandb", action="store_true", help="make a report at Weights & Biases instead, of the runs that are there"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER.yaml",
        help="another sweep with the same objective and eval split, whose configurations are compared with this one's",
    )
    return parser


def status_parser() -> argparse.ArgumentParser:
    """Of `runner.py status`. Its options have the names of the fields that take them."""
    parser = argparse.ArgumentParser(
        prog="runner.py status",
        description="Says how far a sweep has come: who runs it, what each slot does, what is best, what failed.",
        epilog="exit status: 0 done, 2 the spec or the command line is wrong",
        allow_abbrev=False,
    )
    _add_spec(parser, "the sweep")
    return parser


def evaluate_parser() -> argparse.ArgumentParser:
    """Of `runner.py evaluate`. Its options have the names of the fields that take them."""
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


def predict_parser() -> argparse.ArgumentParser:
    """Of `runner.py predict`. Its options have the names of the fields that take them."""
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


def gc_parser() -> argparse.ArgumentParser:
    """Of `runner.py gc`. Its options have the names of the fields that take them."""
    parser = argparse.ArgumentParser(
        prog="runner.py gc",
        description="Removes from a sweep's folder what nothing needs: temporary files, and of trials that ended older "
        "checkpoints and optimizer states. Metrics, results and detections stay.",
        epilog="exit status: 0 done, 1 something could not be removed, 2 the spec or the command line is wrong, or the "
        "sweep is running",
        allow_abbrev=False,
    )
    _add_spec(parser, "the sweep")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed; remove nothing")
    parser.add_argument(
        "--weights",
        choices=["best", "all", "none"],
        help="complete trials that keep their model's weights, for predict: those of the best configuration and of the "
        "final stage, all, or none (default: what resources.keep_checkpoints says)",
    )
    parser.add_argument("--pruned", action="store_true", help="remove checkpoints of pruned trials: they start anew")
    parser.add_argument("--failed", action="store_true", help="remove checkpoints of failed trials: they start anew")
    parser.add_argument("--dropped", action="store_true", help="delete trials that the spec does not have any more")
    return parser


def sync_parser() -> argparse.ArgumentParser:
    """Of `runner.py sync`. Its options have the names of the fields that take them."""
    parser = argparse.ArgumentParser(
        prog="runner.py sync",
        description="Sends to Weights & Biases what of a sweep's ended trials is not there yet, into the same runs. It "
        "may be repeated.",
        epilog="exit status: 0 every trial that has ended is there, 1 something could not be sent, 2 the spec or the "
        "command line is wrong, or there is no API key",
        allow_abbrev=False,
    )
    _add_spec(parser, "the sweep")
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return value
