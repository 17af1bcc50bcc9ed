"""The command line: `python runner.py sweeps/x.yaml` and its relatives. Its options are in experiments/arguments.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments.arguments import (
    data_parser,
    evaluate_parser,
    gc_parser,
    predict_parser,
    report_parser,
    status_parser,
    sweep_parser,
    sync_parser,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. A fault of the user's input is a message, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "data": _data,
        "evaluate": _evaluate,
        "gc": _gc,
        "predict": _predict,
        "report": _report,
        "schema": _schema,
        "status": _status,
        "sync": _sync,
    }
    name = given.pop(0) if given and given[0] in commands else ""
    try:
        command = commands.get(name, _sweep)(given)
        from experiments.errors import UserError, printable

        try:
            return command()
        except UserError as error:
            print(printable(f"error: {error}"), file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stderr.close()
        return 1


def _sweep(given: list[str]) -> Callable[[], int]:
    fields = _fields(sweep_parser(), given)
    from experiments.sweep import Options, run

    return lambda: run(fields.pop("spec"), Options(**fields, arguments=tuple(given)))


def _data(given: list[str]) -> Callable[[], int]:
    fields = _fields(data_parser(), given)
    from experiments.download import download_voc2007

    return lambda: download_voc2007(fields["root"])


def _evaluate(given: list[str]) -> Callable[[], int]:
    fields = _fields(evaluate_parser(), given)
    from experiments.evaluate import EvaluateOptions, evaluate

    return lambda: evaluate(fields.pop("spec"), EvaluateOptions(**fields))


def _predict(given: list[str]) -> Callable[[], int]:
    fields = _fields(predict_parser(), given)
    from experiments.predict import Options, predict

    return lambda: predict(fields.pop("spec"), fields.pop("images"), Options(**fields))


def _gc(given: list[str]) -> Callable[[], int]:
    fields = _fields(gc_parser(), given)
    from experiments.cleaning import CleaningOptions, clean

    return lambda: clean(fields.pop("spec"), CleaningOptions(**fields))


def _report(given: list[str]) -> Callable[[], int]:
    fields = _fields(report_parser(), given)
    from experiments.report.command import ReportOptions, report

    return lambda: report(fields.pop("spec"), ReportOptions(**fields))


def _status(given: list[str]) -> Callable[[], int]:
    fields = _fields(status_parser(), given)
    from experiments.status import StatusOptions, status

    return lambda: status(fields.pop("spec"), StatusOptions(**fields))


def _sync(given: list[str]) -> Callable[[], int]:
    fields = _fields(sync_parser(), given)
    from experiments.tracking.sync import SyncOptions, sync

    return lambda: sync(fields.pop("spec"), SyncOptions(**fields))


def _schema(given: list[str]) -> Callable[[], int]:
    argparse.ArgumentParser(prog="runner.py schema", description="Prints the JSON schema of specs.").parse_args(given)
    from experiments.schema import schema_text

    return lambda: print(schema_text(), end="") or 0


def _fields(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, Any]:
    """The options by the names of the fields that take them; what may be repeated as a tuple."""
    options = vars(parser.parse_args(given))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


if __name__ == "__main__":
    sys.exit(main())
