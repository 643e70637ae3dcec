"""`tagger demo`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tagger.cli import print_json

if TYPE_CHECKING:
    from tagger.demo import Demo


@click.command()
@click.argument("folder", default="demo-results", type=click.Path(path_type=Path))
@click.option(
    "--serve/--no-serve",
    "serving",
    default=None,
    help="At the end serve the web page, until Ctrl-C.  [default: at a terminal]",
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def demo(folder: Path, *, serving: bool | None, quiet: bool, as_json: bool) -> int:
    """Tag sample photos in FOLDER, index and search them, enrich a catalog, and serve the web page."""
    from tagger.demo import ENRICHED
    from tagger.demo import demo as run_demo

    result = run_demo(folder, say=lambda line: click.echo(line, err=as_json), quiet=quiet)
    if as_json:
        print_json(result.to_json())
        return 0
    for name in ("photos", "collection", "products", "report"):
        click.echo(f"{name:<11}{getattr(result, name)}")
    if sys.stdout.isatty() and sys.stderr.isatty() if serving is None else serving:
        _serve(result)
    else:
        command = f"tagger serve {result.collection} --catalog {result.products}/{ENRICHED}"
        click.echo(f"page       http://127.0.0.1:8000 after `{command}`")
        click.echo("open report and page in a browser; the same commands work on your own folder or bucket")
    return 0


def _serve(result: "Demo") -> None:
    from tagger.demo import ENRICHED
    from tagger.serve import ServeOptions, serve

    def ready(address: str, _seconds: float) -> None:
        click.echo(f"page       {address}\nopen it in a browser; Ctrl-C ends it")

    options = ServeOptions(port=_port(), catalog=Path(result.products) / ENRICHED)
    serve(result.collection, options, access_log=False, on_ready=ready)


def _port() -> int:
    """Return the usual port, or 0 for any if another program has it."""
    import socket

    from tagger.serve import ServeOptions

    usual = ServeOptions()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((usual.host, usual.port))
        except OSError:
            return 0
    return usual.port
