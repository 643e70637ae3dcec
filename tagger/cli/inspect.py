"""Commands that look at a collection and change nothing: failures, check, report, models."""

import csv
import json
import sys
from typing import Any

import click

from tagger.cli import print_json, printable
from tagger.errors import UsageError
from tagger.spreadsheet import harmless_cell


@click.command()
@click.argument("collection")
@click.option(
    "--csv", "as_csv", is_flag=True, help="CSV on stdout; cells that begin like formulas are quoted."
)
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def failures(collection: str, *, as_csv: bool, anonymous: bool, as_json: bool) -> int:
    """List every failed image of COLLECTION and why."""
    if as_csv and as_json:
        raise UsageError("--csv and --json cannot go together: leave one of them out")
    reader = _open(collection, anonymous=anonymous).failures()
    if as_csv:
        shown = printable if sys.stdout.isatty() else str  # a file gets the names as they are
        out = csv.writer(sys.stdout)
        out.writerow(reader.schema.names)
        for batch in reader:
            out.writerows(
                [harmless_cell(shown(value or "")) for value in row.values()] for row in batch.to_pylist()
            )
        return 0
    if as_json:
        _print_failures_json(reader)
        return 0
    count = 0
    for batch in reader:
        for row in batch.to_pylist():
            count += 1
            print(f"{row['error']:<18} {printable(row['image_id'])}  {printable(row['error_detail'] or '')}")
    print(f"{count:,} failed" if count else "no image failed", file=sys.stderr)
    return 0


def _print_failures_json(reader: Any) -> None:
    """Write the object piece by piece: a hundred million failures must not have to fit in memory."""
    out = sys.stdout
    out.write('{"failures": [')
    separator = ""
    try:
        for batch in reader:
            for row in batch.to_pylist():
                out.write(separator + json.dumps(row, ensure_ascii=True))
                separator = ", "
    except BaseException:
        out.write("\n")  # the object that tells of the error needs a line of its own
        raise
    out.write("]}\n")


@click.command()
@click.argument("collection")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def check(collection: str, *, anonymous: bool, as_json: bool) -> int:
    """Verify every promise about COLLECTION and its index; exit with 1 if one is broken."""
    from tagger.collection import check as run_check
    from tagger.index import check_index

    opened = _open(collection, anonymous=anonymous)
    result = run_check(opened)
    findings, notes = check_index(opened)
    result.findings += findings
    result.notes += notes
    if as_json:
        print_json(result.to_json())
    else:
        for finding in result.findings:
            print(f"finding: {printable(finding)}")
        for note in result.notes:
            print(f"note: {printable(note)}")
        found = len(result.findings)
        verdict = "every promise holds" if result.ok else f"{found:,} finding{'s' * (found != 1)}"
        print(f"{result.rows:,} rows, {result.tagged:,} tagged, {result.failed:,} failed: {verdict}")
    return 0 if result.ok else 1


@click.command()
@click.argument("collection")
@click.option("--out", help="File to write.  [default: report.html in the folder of the newest run]")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def report(collection: str, *, out: str | None, anonymous: bool, as_json: bool) -> int:
    """Write an HTML report of COLLECTION: one file that opens offline."""
    from tagger.report import write_report

    result = write_report(_open(collection, anonymous=anonymous), out=out)
    if as_json:
        print_json(result.to_json())
    else:
        print(printable(result.out))
    return 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def models(*, as_json: bool) -> int:
    """List the model zoo: name, input, embedding size, licence, where the weights come from."""
    from tagger.models import DEFAULT_MODEL, zoo

    rows = [
        {
            "name": spec.name,
            "input_px": spec.input_px,
            "dim": spec.dim,
            "licence": spec.licence,
            "weights": spec.origin,
            "default": spec.name == DEFAULT_MODEL,
        }
        for spec in zoo()
    ]
    if as_json:
        print_json({"models": rows})
        return 0
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'name':<{width}}  input    dim  {'licence':<13} weights")
    for row in rows:
        mark = "  (default)" if row["default"] else ""
        print(
            f"{row['name']:<{width}}  {row['input_px']:>5}  {row['dim']:>5}  {row['licence']:<13} "
            f"{row['weights']}{mark}"
        )
    print("\nalso: timm:NAME and torchvision:NAME (weights from their hub), or the path of a checkpoint")
    return 0


def _open(collection: str, *, anonymous: bool) -> Any:
    from tagger.collection import Collection
    from tagger.storage import StorageOptions

    return Collection.open(collection, StorageOptions(anonymous=anonymous))
