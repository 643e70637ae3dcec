"""`tagger demo`."""

from pathlib import Path

import click

from tagger.cli import print_json


@click.command()
@click.argument("folder", default="demo-results", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def demo(folder: Path, *, quiet: bool, as_json: bool) -> int:
    """Tag sample photos in FOLDER, index and search them, write a report, and say where everything is."""
    from tagger.demo import demo as run_demo

    result = run_demo(folder, say=lambda line: click.echo(line, err=as_json), quiet=quiet)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(f"\nphotos   {result.photos}\ntable    {result.collection}\nreport   {result.report}")
        click.echo("open the report in a browser; the same commands work on your own folder or bucket")
    return 0
