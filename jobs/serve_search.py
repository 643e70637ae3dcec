"""The search API of a collection on a Ray cluster, until `serve shutdown`.

ray job submit --working-dir . -- python jobs/serve_search.py s3://bucket/collection --replicas 2
serve run jobs.serve_search:app collection=s3://bucket/collection replicas=2
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ray.serve import Application


def app(args: dict[str, str]) -> Application:
    """Return the application for `serve run`; `args` are the fields of ClusterOptions."""
    from tagger.serve.deployment import application
    from tagger.serve.scale import options_of

    return application(options_of(args))


@click.command()
@click.argument("collection")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that every node listens on.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--replicas", type=int, default=2, show_default=True, help="Copies that are always there.")
@click.option("--max-replicas", type=int, help="Most copies, under load.  [default: as --replicas]")
@click.option(
    "--ongoing", type=float, default=4.0, show_default=True, help="Requests a copy before the next."
)
@click.option("--max-ongoing", type=int, default=100, show_default=True, help="Requests a copy at most.")
@click.option("--cpus", type=int, default=1, show_default=True, help="Cores of a copy.")
@click.option("--api-key-file", metavar="F", help="API keys, on every node. Or set TAGGER_API_KEY there.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Also answer to this Host."
)
@click.option("--rate", "rate_per_s", type=float, default=1000.0, help="Requests a second of one key a copy.")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option(
    "--health-s", type=float, default=5.0, show_default=True, help="Seconds between looks at a copy."
)
@click.option("--quiet", is_flag=True, help="No line a request in the logs of the copies.")
@click.option("--env", is_flag=True, help="Print what `ray start` and `serve run` need to know, and end.")
def main(*, env: bool, quiet: bool, **given: Any) -> None:
    """Serve the search API of COLLECTION from a Ray cluster."""
    from tagger.errors import TaggerError, UsageError
    from tagger.serve.scale import ClusterOptions, environment
    from tagger.settings import load_settings

    try:
        options = ClusterOptions(**given, access_log=not quiet)
        # What the operator sets for Ray Serve goes before.
        variables = environment(options) | {
            name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")
        }
        if env:
            for name, value in variables.items():
                click.echo(f"export {name}='{value}'")
            return
        settings = load_settings()
        options.serve_options(settings.api_key)  # the keys are there
        if not settings.ray_token_is_set:
            raise UsageError(
                "Ray must ask for a token, for whoever reaches its ports can run anything: start it with "
                "RAY_AUTH_MODE=token, and set the same here"
            )
        os.environ.update(variables)  # before Ray is imported, which reads them then
        import ray

        ray.init(runtime_env={"env_vars": variables}, namespace="tagger", log_to_driver=False)
        from tagger.serve.deployment import deploy

        click.echo(f"{options.collection} is served at {deploy(options)}")
    except TaggerError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
