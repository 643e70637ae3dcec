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
        command = tagger.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name, **width)
        lines += ["", f"## tagger {name}", "", "```", command.get_help(inner), "```", ""]
        lines += [f"With `--json` the last line of stdout is one object: `{_JSON_KEYS[name]}`."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
