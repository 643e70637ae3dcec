"""`tagger retag`."""

from pathlib import Path

import click

from tagger.cli import print_json, printable
from tagger.errors import UsageError


@click.command()
@click.argument("collection")
@click.option(
    "--taxonomy", type=click.Path(path_type=Path), help="File that renames, hides or groups labels."
)
@click.option("--threshold", type=float, help="Least score of a tag, in [0, 1].")
@click.option("--top-k", type=int, help="Most tags per image.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def retag(
    collection: str, *, taxonomy: Path | None, threshold: float | None, top_k: int | None, as_json: bool
) -> int:
    """Make the tags and categories of COLLECTION again from its stored embeddings, without reading an image.

    What is not given stays as it is. Either all rows change or none.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold must be between 0 and 1, got {threshold}")
    if top_k is not None and top_k < 1:
        raise UsageError(f"--top-k must be at least 1, got {top_k}")
    from tagger.engine.retag import retag as run_retag

    result = run_retag(collection, taxonomy=taxonomy, threshold=threshold, top_k=top_k)
    if as_json:
        print_json(result.to_json())
    else:
        print(f"retagged {result.tagged:,} of {result.rows:,} rows in {result.seconds:,.1f} s")
        print(f"table    {printable(collection)} (version {result.table_version}, run {result.run_id})")
    return 0
