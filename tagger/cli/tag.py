"""`tagger tag`."""

from pathlib import Path
from typing import Any

import click

from tagger.cli import print_json, printable
from tagger.errors import UsageError


def _also(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        model, sign, collection = value.partition("=")
        if not (model and sign and collection):
            raise UsageError(f"--also must be MODEL=COLLECTION, got {value!r}")
        pairs.append((model, collection))
    return tuple(pairs)


@click.command()
@click.argument("source")
@click.argument("collection")
@click.option(
    "--model", help="A model of `tagger models`, timm:NAME, torchvision:NAME or a checkpoint's path."
)
@click.option(
    "--also", multiple=True, metavar="MODEL=COLLECTION", callback=_also, help="A second model in one pass."
)
@click.option(
    "--taxonomy", type=click.Path(path_type=Path), help="File that renames, hides or groups labels."
)
@click.option("--threshold", type=float, help="Least score of a tag, in [0, 1].")
@click.option("--top-k", type=int, help="Most tags per image.")
@click.option("--limit", type=int, help="Tag at most this many images; later runs take the others.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only keys that match; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No keys that match; may be repeated.")
@click.option("--retry-failed", is_flag=True, help="Try every failed image again.")
@click.option("--prune", is_flag=True, help="Remove rows whose image is gone from SOURCE.")
@click.option("--yes", is_flag=True, help="Let --prune remove more than a fifth of the table.")
@click.option(
    "--max-failed", type=float, metavar="SHARE", help="Exit with 3 when more failed.  [default: 0.05]"
)
@click.option("--anonymous", is_flag=True, help="Read a public bucket without credentials.")
@click.option("--requester-pays", is_flag=True, help="Agree to pay for reads of a requester-pays bucket.")
@click.option("--dry-run", is_flag=True, help="List and measure a sample; write nothing.")
@click.option("--price", type=float, metavar="USD_PER_HOUR", help="With --dry-run: price of all machines.")
@click.option("--address", help="Ray cluster to run on.  [default: one on this machine]")
@click.option(
    "--machines",
    metavar="GROUPS",
    help="What the cluster may grow to, such as 8x16cpu,4x4cpu+1gpu.  [default: TAGGER_MACHINES]",
)
@click.option(
    "--backend",
    type=click.Choice(["openvino", "torch"]),
    help="What runs the CNN.  [default: torch on GPUs, openvino on CPUs]",
)
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16", "fp16"]),
    help="Arithmetic of the CNN.  fp16: torch only.  [default: the faster of f32 and bf16 here]",
)
@click.option("--fetch-tasks", type=int, help="Fetch and decode tasks at once.")
@click.option("--model-actors", type=int, help="Actors that hold the CNN.")
@click.option("--model-threads", type=int, help="Threads of each model actor.")
@click.option(
    "--gpus-per-actor", type=float, metavar="GPUS", help="Such as 0.5: two actors share one.  [default: 1]"
)
@click.option("--chunk-rows", type=int, help="Images in a chunk, at most 512.")
@click.option("--cpus", type=int, help="CPUs to use of this machine.")
@click.option("--max-image-bytes", type=int, help="Larger files become failed rows.  [default: 64 MiB]")
@click.option("--max-pixels", type=int, help="Larger pictures become failed rows.  [default: 200 million]")
@click.option("--decode-timeout-s", type=float, help="Time one picture may take to decode.  [default: 20]")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def tag(
    source: str, collection: str, *, dry_run: bool, price: float | None, as_json: bool, **given: Any
) -> int:
    """Tag the images under SOURCE into COLLECTION.

    SOURCE is a bucket or prefix (s3://, gs://, az://), a folder, one image, or a manifest (Parquet, CSV, JSON
    Lines, S3 Inventory). COLLECTION is a folder or prefix; it is made if missing. Images that have a settled
    row are left out, so the same command resumes, updates and retries.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if price is not None and not dry_run:
        raise UsageError("--price belongs to --dry-run: add it, or leave --price out")
    if dry_run:
        return _dry_run(source, collection, options, price=price, as_json=as_json)
    from tagger.engine import tag as run_tag

    run = run_tag(source, collection, **options)
    if as_json:
        print_json(run.to_json())
    else:
        _print_run(run, collection, [uri for _, uri in options.get("also", ())])
    return run.exit_code


def _print_run(run: Any, collection: str, also: list[str]) -> None:
    already = f", {run.skipped:,} already done" if run.skipped else ""
    later = f", {run.deferred:,} left for later" if run.deferred else ""
    print(f"listed   {run.listed:,} images{already}{later}")
    print(f"tagged   {run.tagged:,}")
    reasons = ", ".join(
        f"{count:,} {code}" for code, count in sorted(run.errors.items(), key=lambda e: -e[1])
    )
    print(f"failed   {run.failed:,}" + (f" ({reasons})" if reasons else ""))
    if run.removed:
        print(f"removed  {run.removed:,} rows whose image is gone")
    rate = f", {run.images_per_s:,.0f} images/s" if run.planned else ""
    print(f"took     {run.seconds:,.1f} s{rate}")
    print(f"table    {printable(collection)} (version {run.table_version}, run {run.run_id})")
    for other in also:
        print(f"also     {printable(other)}")
    if run.failed:
        print(f"see      tagger failures {printable(collection)}")
    if run.exit_code:
        print(f"{run.failed:,} of {run.planned:,} images failed, more than --max-failed allows")


def _dry_run(
    source: str, collection: str, options: dict[str, Any], *, price: float | None, as_json: bool
) -> int:
    from tagger.engine import estimate

    found = estimate(source, collection, price_usd_per_hour=price, **options)
    if as_json:
        print_json(found.to_json())
        return 0
    print(f"listed   {found.listed:,} images")
    print(f"planned  {found.planned:,} images, {found.bytes / 1e6:,.1f} MB")
    measured = f"{found.cpus} CPUs ({found.sample} images measured)"
    print(f"time     about {found.estimated_seconds:,.0f} s on {measured}")
    if found.gpus:
        print(f"         (decoding only: whether {found.gpus} GPUs keep up was not measured)")
    if found.estimated_cost is not None:
        print(f"cost     about {found.estimated_cost:,.2f} USD for machines, without requests to storage")
    return 0
