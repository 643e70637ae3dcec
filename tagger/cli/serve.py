"""`tagger serve`."""

import contextlib
import logging
import sys
from pathlib import Path

import click

from tagger.cli import print_json, printable


@click.command()
@click.argument("collection")
@click.option(
    "--catalog",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F",
    help="Show its products, too: a Parquet file that tagger enrich wrote.",
)
@click.option(
    "--decisions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F",
    help="Where accepted and rejected tags are kept.  [default: CATALOG.decisions.csv]",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, default=8000, help="0 takes a free one.  [default: 8000]")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F",
    help="API keys, one a line; any host but this machine needs one. Or set TAGGER_API_KEY.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Also answer to this Host, of a proxy on this machine; repeat.",
)
@click.option("--rate", type=float, default=1000.0, help="Requests a second of one key.  [default: 1000]")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--quiet", is_flag=True, help="No line a request on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object, once ready.")
def serve(
    collection: str,
    *,
    catalog: Path | None,
    decisions: Path | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    allowed_hosts: tuple[str, ...],
    rate: float,
    anonymous: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Serve the search API of COLLECTION and its web page, until stopped.

    With --catalog also the products of an enriched catalog, whose tags people accept or reject on the page.
    A new version of the index is served as soon as it is published. SIGTERM or Ctrl-C finishes what was begun
    and exits with 0.
    """
    # A signal that comes before the server takes signals itself ends it, too: there is nothing to finish.
    with contextlib.suppress(KeyboardInterrupt):
        from tagger.serve.ahead import read_ahead

        read_ahead(collection)  # before the libraries below, which take longer to load than to name
        from tagger.serve import ServeOptions, read_keys
        from tagger.serve import serve as serve_collection
        from tagger.settings import load_settings
        from tagger.storage import StorageOptions

        settings = load_settings()
        keys = read_keys(api_key_file) if api_key_file is not None else ()
        if settings.api_key is not None:
            keys = (*keys, settings.api_key)
        options = ServeOptions(
            host=host,
            port=port,
            api_keys=keys,
            allowed_hosts=allowed_hosts,
            rate_per_s=rate,
            catalog=catalog,
            decisions=decisions,
        )
        logging.basicConfig(
            stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
        logging.getLogger("tagger.serve").setLevel(logging.INFO)

        def ready(address: str, seconds: float) -> None:
            if as_json:
                said = {"url": address, "seconds": round(seconds, 3), "collection": collection}
                if catalog is not None:
                    said |= {"catalog": str(catalog), "decisions": str(options.decisions_file)}
                print_json(said)
            else:
                click.echo(f"{printable(collection)} is served at {address} (ready after {seconds:.1f} s)")
                everywhere = host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
                where = "under any name or address of this machine" if everywhere else "in a browser"
                click.echo(f"open it {where}; Ctrl-C ends it")

        serve_collection(
            collection,
            options,
            storage=StorageOptions(anonymous=anonymous),
            settings=settings,
            access_log=not quiet,
            on_ready=ready,
        )
    return 0
