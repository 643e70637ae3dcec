"""Results of `python -m bench.scale` → tables, fits, walls, and their block in docs/scale.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.report import Target, markdown_table, measured_on, targets_table
from bench.scale_fit import Fit, Wall, fit, in_order
from tagger.engine.ledger import GROUP_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN: Final = "<!-- scale: begin, written by `python -m bench.scale --write-docs` -->"
END: Final = "<!-- scale: end -->"
FAR: Final = (100_000_000, 1_000_000_000)
RATE: Final = 20_000.0  # images/s that the control plane is to carry
PROMISED_AT: Final = 10_000_000
_GB: Final = 1e9
_MB: Final = 1e6
_DAY_S: Final = 86_400.0
_KEYS_A_REQUEST, _REQUESTS_AT_ONCE, _REQUEST_S = 1000, 8, 0.1  # the last is assumed: S3 from the same region
_REMEMBERED: Final = 2 * 4_194_304  # so many listed, the listing ends in the first half of the run
_BENDS: Final = 0.7  # exponent below which a straight line says too much
_NONE: Final = "\N{EN DASH}"


@dataclass(frozen=True)
class IndexKind:
    """Bytes an image of an index, from docs/benchmarks.md (1,280 numbers an embedding).

    Own memory of `ivf` is the slope between 200,000 images (816 bytes each) and 1,000,000 (612); its files
    are those at 1,000,000. `ivf-pq` has codes of 56 bytes instead of 224, and is otherwise the same.
    """

    name: str
    own: float
    files: float


INDEX_KINDS: Final = (IndexKind("ivf", 561, 2_923), IndexKind("ivf-pq", 393, 2_755))
INDEX_BUILD_CPU_S: Final = 110.6e-6  # an image, at 1,000,000 with 2,048 lists


def targets(results: dict[str, Any]) -> list[Target]:
    """Compare the run over the most images with what the control plane promises at ten million."""
    run = results["runs"][-1]
    at = f"at {run['images']:,}"
    return [
        Target(f"images/s planned, streamed, committed {at}", "≥", RATE, run["images"] / run["wall_s"]),
        Target(f"driver's peak memory {at} (GB)", "≤", 2.0, run["driver_peak_bytes"] / _GB),
    ]


def fits(results: dict[str, Any]) -> dict[str, Fit]:
    """Return how every cost grows with the number of images."""
    runs, again, tables, log = (results[name] for name in ("runs", "again", "tables", "log"))

    def points(
        rows: list[dict[str, Any]], of: Callable[[dict[str, Any]], float]
    ) -> list[tuple[float, float]]:
        return [(row["images"], of(row)) for row in rows]

    found = [
        fit("run, wall (s)", points(runs, lambda run: run["wall_s"])),
        fit("run, CPU of all processes (s)", points(runs, lambda run: run["cpu_s"])),
        fit("run, CPU of the driver (s)", points(runs, lambda run: run["driver_cpu_s"])),
        _memory(
            "run, driver's peak (GB)", points(runs, lambda run: run["driver_peak_bytes"] / _GB), runs[-1]
        ),
        fit("plan in the store (GB)", points(tables, lambda table: table["plan_bytes"] / _GB)),
        fit("second run, wall (s)", points(again, lambda run: run["wall_s"])),
        fit("second run, driver's peak (GB)", points(again, lambda run: run["driver_peak_bytes"] / _GB)),
        fit("second run, spilled (GB)", points(again, lambda run: run["spill_bytes"] / _GB)),
    ]
    if log:
        found += [
            fit("one commit, CPU (s)", points(log, lambda row: row["commit_cpu_s"])),
            fit("opening the table (s)", points(log, lambda row: row["open_s"])),
            fit("one checkpoint (s)", points(log, lambda row: row["checkpoint_s"])),
            fit("one checkpoint (GB)", points(log, lambda row: row["checkpoint_bytes"] / _GB)),
            fit("the log in the driver's memory (GB)", points(log, lambda row: row["grew"] / _GB)),
        ]
    return {one.name: one for one in found}


def _memory(name: str, points: list[tuple[float, float]], run: dict[str, Any]) -> Fit:
    """Fit the driver's memory: once the listed ids that it remembers are as many as may be, by its growth.

    Until then it grows faster, and a line through the smaller runs would go on with that for ever.
    """
    late = [resident for _, resident in run["driver_growth"][len(run["driver_growth"]) // 2 :]]
    if run["images"] < _REMEMBERED:
        return fit(name, points)
    each = max(0, max(late) - late[0]) / _GB / (run["images"] / 2)
    peak = points[-1][1]
    return Fit(name, peak - each * run["images"], each, None, tuple(points))


def walls(found: dict[str, Fit]) -> list[Wall]:
    """Return what has to be gone past, the first to be met first."""
    ivf, pq = INDEX_KINDS
    seconds_a_key = _REQUEST_S / _REQUESTS_AT_ONCE / _KEYS_A_REQUEST
    all_of_them = [
        Wall("run, driver's memory", 2.0, "2 GB", found["run, driver's peak (GB)"], "key ranges, a run each"),
        Wall(
            "second run, driver's memory",
            2.0,
            "2 GB",
            found["second run, driver's peak (GB)"],
            "key ranges, a collection each",
        ),
        Wall(
            "second run, disk of the driver",
            100.0,
            "100 GB",
            found["second run, spilled (GB)"],
            "key ranges, a collection each",
        ),
        Wall("second run, time", _DAY_S, "1 day", found["second run, wall (s)"], "key ranges, side by side"),
        Wall("run, time", _DAY_S, "1 day", found["run, wall (s)"], "key ranges, side by side"),
        Wall("listing one prefix, time", _DAY_S, "1 day", _paper(seconds_a_key), "S3 Inventory as manifest"),
        Wall(f"index `{ivf.name}`, memory", 24.0, "24 GB", _paper(ivf.own / _GB), "`ivf-pq`, then shards"),
        Wall(f"index `{pq.name}`, memory", 24.0, "24 GB", _paper(pq.own / _GB), "shards"),
        Wall(f"index `{ivf.name}`, disk", 1000.0, "1 TB", _paper(ivf.files / _GB), "shards"),
    ]
    if "one commit, CPU (s)" in found:
        all_of_them += [
            Wall(
                f"a commit takes as long as {GROUP_ROWS:,} images at {RATE:,.0f}/s",
                GROUP_ROWS / RATE,
                f"{GROUP_ROWS / RATE:.2f} s",
                found["one commit, CPU (s)"],
                "parts are committed together; larger parts",
            ),
            Wall("opening the table", 10.0, "10 s", found["opening the table (s)"], "larger parts"),
        ]
    return in_order(all_of_them)


def _paper(each: float) -> Fit:
    return Fit("on paper", 0.0, each, None, ())


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown that also reads well on a terminal."""
    found = fits(results)
    sections = [
        _heading(results),
        "### Measured: a run into an empty collection",
        markdown_table(*_runs_table(results)),
        "### Measured: the same keys again, all settled",
        markdown_table(*_again_table(results)),
        f"### Measured: CPU of the driver by thread, at {results['runs'][-1]['images']:,} images",
        markdown_table(*_threads_table(results["runs"][-1])),
    ]
    if results["log"]:
        sections += ["### Measured: the commit log alone", markdown_table(*_log_table(results["log"]))]
    sections += [
        "### Fitted: cost = fixed + each · N",
        markdown_table(*_fits_table(found)),
        "### Walls, the first to be met first",
        markdown_table(*_walls_table(walls(found))),
        "### On paper: the index",
        markdown_table(*_index_table()),
        "### Promises",
        targets_table(targets(results)),
    ]
    return "\n\n".join(sections)


def _heading(results: dict[str, Any]) -> str:
    return (
        f"{measured_on(results)} {results['cpus']} logical CPUs of Ray, chunks of {results['chunk_rows']} "
        f"images. Load average before {results['load_before']:.1f}, after {results['load_after']:.1f}; two "
        "or three are the simulation's own. Where others used the cores, wall times say little, and CPU "
        "seconds come out too high."
    )


def _runs_table(results: dict[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = (
        *("images", "wall s", "images/s", "CPU µs an image: driver", "workers", "Ray"),
        *("driver peak MB", "all peak MB", "commits", "parts", "first commits ms", "last ms"),
        *("log MB", "plan MB", "open s", "check s"),
    )
    rows = []
    for run, table in zip(results["runs"], results["tables"], strict=True):
        images, roles = run["images"], run["cpu_by_role_s"]
        commits = [commit["wall_s"] for commit in run["commits"]]
        tenth = max(1, len(commits) // 10)
        rows.append(
            [
                f"{images:,}",
                f"{run['wall_s']:,.1f}",
                f"{images / run['wall_s']:,.0f}",
                *(f"{roles[role] / images * 1e6:.1f}" for role in ("driver", "workers", "ray")),
                f"{run['driver_peak_bytes'] / _MB:,.0f}",
                f"{run['peak_bytes'] / _MB:,.0f}",
                f"{len(commits):,}",
                f"{table['parts']:,}",
                *(f"{1e3 * sum(some) / len(some):.0f}" for some in (commits[:tenth], commits[-tenth:])),
                f"{table['log_bytes'] / _MB:,.1f}",
                f"{table['plan_bytes'] / _MB:,.1f}",
                f"{table['open_s']:.2f}",
                f"{table['check_s']:.1f}" if "check_s" in table else _NONE,
            ]
        )
    return header, rows


def _again_table(results: dict[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = ("images", "wall s", "images/s", "CPU µs an image", "driver peak MB", "spilled MB")
    return header, [
        [
            f"{run['images']:,}",
            f"{run['wall_s']:,.1f}",
            f"{run['images'] / run['wall_s']:,.0f}",
            f"{run['driver_cpu_s'] / run['images'] * 1e6:.1f}",
            f"{run['driver_peak_bytes'] / _MB:,.0f}",
            f"{run['spill_bytes'] / _MB:,.0f}",
        ]
        for run in results["again"]
    ]


_THREADS: Final = {
    "StreamingExecutor": "Ray Data's scheduling loop",
    "MainThread": "the commit loop, with the start",
    "planner": "listing, plan and its files",
    "stream": "taking finished chunks",
    "ray-data-metadata-prefetch": "Ray Data's metadata",
}


def _threads_table(run: dict[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    named: dict[str, float] = {}
    for name, cpu_s in run["driver_cpu_by_thread_s"].items():
        known = _THREADS.get(name) or (
            "threads of libraries (Ray's core most of all)" if "native" in name else "rest"
        )
        named[known] = named.get(known, 0.0) + cpu_s
    chunks = math.ceil(run["images"] / 512)
    rows = [
        [name, f"{cpu_s:,.1f}", f"{cpu_s / run['images'] * 1e6:.1f}", f"{cpu_s / chunks * 1e3:.1f}"]
        for name, cpu_s in sorted(named.items(), key=lambda item: -item[1])
    ]
    return ("thread", "CPU s", "µs an image", "ms a chunk of 512"), rows


def _log_table(log: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = (
        *("images in the table", "parts", "one commit ms", "CPU ms", "open s"),
        *("checkpoint s", "checkpoint MB", "driver grew by MB"),
    )
    return header, [
        [
            f"{row['images']:,}",
            f"{row['parts']:,}",
            f"{row['commit_s'] * 1e3:.0f}",
            f"{row['commit_cpu_s'] * 1e3:.0f}",
            f"{row['open_s']:.2f}",
            f"{row['checkpoint_s']:.2f}",
            f"{row['checkpoint_bytes'] / _MB:.1f}",
            f"{row['grew'] / _MB:,.0f}",
        ]
        for row in log
    ]


def _fits_table(found: dict[str, Fit]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = ("cost", "fixed", "each 1 M images", "exponent", *(f"{n:,}" for n in FAR))
    rows = []
    for one in found.values():
        exponent = _NONE if one.exponent is None else f"{one.exponent:.2f}"
        rows.append(
            [
                one.name,
                _figure(one.fixed),
                _figure(one.each * 1e6),
                f"{exponent}, superlinear" if one.superlinear else exponent,
                *(_said(one, n) for n in FAR),
            ]
        )
    return header, rows


def _said(one: Fit, n: int) -> str:
    """Return what was measured at N, or else what the fit says, marked as such."""
    for measured, cost in one.measured:
        if measured == n:
            return f"{_figure(cost)} measured"
    return f"{_figure(one.at(n))} extrapolated"


def _walls_table(found: list[Wall]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = ("wall", "limit", "reached at about", "past it")
    return header, [
        [wall.name, wall.unit, _reached(wall), wall.past] for wall in found if wall.images < math.inf
    ]


def _index_table() -> tuple[tuple[str, ...], list[list[str]]]:
    header = ("images", "kind", "memory GB", "files GB", "build, core hours", "shards of 24 GB")
    rows = []
    for images in FAR:
        for kind in INDEX_KINDS:
            memory = kind.own * images / _GB
            rows.append(
                [
                    f"{images:,}",
                    kind.name,
                    f"{memory:,.1f}",
                    f"{kind.files * images / _GB:,.0f}",
                    f"{INDEX_BUILD_CPU_S * images / 3600:,.1f} or more",
                    f"{math.ceil(memory / 24):,}",
                ]
            )
    return header, rows


def _reached(wall: Wall) -> str:
    bends = wall.fit.exponent is not None and wall.fit.exponent < _BENDS
    return f"{_millions(wall.images)}{' or more' if bends else ''}"


def _millions(images: float) -> str:
    return f"{images / 1e6:,.0f} M" if images < 1e10 else "more than 10,000 M"


def _figure(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"
