"""The CLI reference, made from the commands themselves: `python -m tagger.cli.reference > docs/cli.md`."""

from typing import Any

import click

from tagger.cli import tagger

_JSON_KEYS = {
    "tag": "run_id, listed, skipped, planned, deferred, tagged, failed, removed, seconds, images_per_s, "
    "table_version; with --dry-run: listed, planned, bytes, estimated_seconds, "
    "estimated_cost",
    "retag": "run_id, rows, tagged, table_version, seconds",
    "failures": "failures: [{image_id, error, error_detail}]",
    "check": "ok, rows, tagged, failed, findings, notes",
    "report": "out, size_bytes, images, tagged, failed",
    "models": "models: [{name, input_px, dim, licence, weights, default}]",
    "index": "version, kind, count, dim, recall_at_10, seconds, bytes, table_version, how",
    "search": "model_id, index_version, matches: [{image_id, score, tags, categories}], next_offset; with "
    "--fold also folded: [image_id] in a match that stands for others",
    "recommend": "as search, with because: image_id in each match; with --events: out, users, rows, cold, "
    "events, unknown, incomplete",
    "duplicates": "groups, images, kinds: {kind: copies}, out, largest: [{images, rows}]; with --against: "
    "images, known: {kind: images}, new, failed, out, first: [row]",
    "outliers": "images, outliers, out, first: [{rank, image_id, percentile, distance, nearest}]",
    "enrich": "products, enriched, missing, rows, images, joined: {how: names}, unmatched: {problem: names}, "
    "examples: [row], flags: {flag: products}, columns, read_as, left_out: {reason: products}, "
    "remarks: {text: number}, out, files, unmatched_out, seconds",
    "serve": "url, seconds, collection; with --catalog also catalog, decisions; once requests are answered",
    "submit": "submission_id, status, attempts, exit_code, seconds, result: what the command printed for "
    "--json of its own, else null; of a failed job also error; with --no-wait exit_code is null",
    "jobs list": "jobs: [{submission_id, status, attempt, command, entry_point, started, seconds, "
    "exit_code}]",
    "jobs status": "submission_id, status, attempt, command, entry_point, started, seconds, exit_code, "
    "message",
    "jobs logs": "submission_id, status, lines",
    "jobs stop": "submission_id, stopped, status",
    "demo": "photos, collection, report, run, index",
}


def reference() -> str:
    """Return the reference of all commands as Markdown."""
    width: dict[str, Any] = {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(tagger, info_name="tagger", help_option_names=["-h", "--help"], **width)
    lines = [
        "# Command line",
        "",
        "Made by `make docs` from the commands themselves; do not edit.",
        "",
        "```",
        tagger.get_help(context),
        "```",
        "",
        "A command that fails tells why on stderr; with `--json` also as `error, exit_code`.",
    ]
    for name in tagger.list_commands(context):
        lines += _section(tagger, name, context, width)
    return "\n".join(lines) + "\n"


def _section(group: click.Group, name: str, above: click.Context, width: dict[str, Any]) -> list[str]:
    """Return the lines of one command, and of the commands below it."""
    command = group.get_command(above, name)
    assert command is not None
    context = click.Context(command, parent=above, info_name=name, **width)
    path = context.command_path.removeprefix("tagger ")
    lines = ["", f"## tagger {path}", "", "```", command.get_help(context), "```"]
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            lines += _section(command, below, context, width)
        return lines
    return [*lines, "", f"With `--json` the last line of stdout is one object: `{_JSON_KEYS[path]}`."]


if __name__ == "__main__":
    click.echo(reference(), nl=False)
