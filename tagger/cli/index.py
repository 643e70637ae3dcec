"""`tagger index`."""

import click

from tagger.cli import print_json, teller


@click.command()
@click.argument("collection")
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "ivf", "ivf-pq"]),
    default="auto",
    help="flat: exact; ivf: inverted lists; ivf-pq: with the shortest codes.  [default: by size]",
)
@click.option("--rebuild", is_flag=True, help="Build it anew, also where the one there is damaged.")
@click.option(
    "--address", help="Ray cluster whose tasks fill it; `local` starts one here.  [default: this process]"
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def index(
    collection: str, *, kind: str, rebuild: bool, address: str | None, quiet: bool, as_json: bool
) -> int:
    """Bring the similarity index of COLLECTION up to its table, and serve it.

    Builds it from the stored embeddings the first time, and later adds, replaces and removes what changed. No
    image is read. The version served before stays until the new one is complete.
    """
    from tagger.collection import Collection
    from tagger.index import index as run_index

    say = teller(quiet=quiet)
    made = run_index(Collection.open(collection), kind=kind, rebuild=rebuild, address=address, say=say)
    if as_json:
        print_json(made.to_json())
        return 0
    how = {"unchanged": "is up to date", "updated": "was updated", "built": "was built"}[made.how]
    print(f"index    {how}: {made.count:,} images, {made.kind}, {made.bytes / 1e6:,.1f} MB")
    if made.recall_at_10 is not None:
        exact = " (exact)" if made.kind == "flat" else ""
        print(f"recall   {made.recall_at_10:.3f} of the ten nearest{exact}")
    print(f"took     {made.seconds:,.1f} s")
    print(f"version  {made.version}, of table version {made.table_version}")
    return 0
