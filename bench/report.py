"""Results → tables, targets met or not, and the block of docs/benchmarks.md that carries them."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.peer_runs import PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
BEGIN = "<!-- bench: begin, written by `make bench ARGS=--write-docs` -->"
END = "<!-- bench: end -->"
PEER_FACTORS = {"ray_data_images": 8.0, "daft_images": 4.5, "torch_dataloader": 8.0}
_MB = 1_000_000
_NONE = "\N{EN DASH}"
_ENGINE_HEADER = (
    *("images", "whole images/s", "÷ limit", "steady images/s", "÷ limit", "first rows s", "start-up s"),
    *("tail s", "CPU ms an image", "peak MB", "driver", "workers", "Ray", "exit", "check"),
)
_PEER_HEADER = (
    *("", "images/s after start-up", "whole images/s", "peak MB", "tagger steady ÷", "tagger whole ÷ whole"),
)


@dataclass(frozen=True)
class Target:
    """One promise of speed, and what was measured; `value` is None where this run did not measure it."""

    name: str
    relation: Literal["≥", "≤"]
    bound: float
    value: float | None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.relation == "≥" else self.value <= self.bound


def targets(results: dict[str, Any]) -> list[Target]:
    """Compare what was measured with what tagger promises on a machine of two cores.

    A promise about 10,000 images is judged by the run over as many as there are, `images`; a --quick run thus
    shows whether the bench works, not whether the promises hold.
    """
    limit = results["limit"]["images_per_s"]
    runs = {run["images"]: run for run in results["engine"]}
    main, large = runs[results["images"]], runs.get(results["large"])
    if large is main:
        large = None
    parts = {part["name"]: part["cpu_ms"] for part in results["limit"]["parts"]}
    steady = main.get("images_per_s")
    found = [
        Target("engine, steady ÷ limit", "≥", 0.90, _ratio(steady, limit)),
        Target(f"engine, whole command at {results['images']:,} ÷ limit", "≥", 0.80, _whole(main, limit)),
        Target("first rows committed after (s)", "≤", 8.0, main.get("first_rows_s")),
        Target("all measurements (CPU ms an image)", "≤", 0.4, parts.get("all measurements")),
    ]
    if large is not None:
        growth = _ratio(large.get("peak_own_bytes"), main.get("peak_own_bytes"))
        found += [
            Target(f"engine, whole command at {results['large']:,} ÷ limit", "≥", 0.88, _whole(large, limit)),
            Target(
                f"peak memory of driver and workers at {results['large']:,} ÷ at {results['images']:,}",
                "≤",
                1.10,
                growth,
            ),
        ]
    retag = results["retag"]
    if retag["rows"] >= 100_000:
        found.append(Target(f"retag of {retag['rows']:,} rows (s)", "≤", 10.0, retag.get("wall_s")))
    for name, factor in PEER_FACTORS.items():
        peer = results["peers"].get(name, {})
        found.append(
            Target(f"engine, steady ÷ {PEERS[name]}", "≥", factor, _ratio(steady, peer.get("images_per_s")))
        )
    return found


def as_json(found: Sequence[Target]) -> list[dict[str, Any]]:
    """Return targets with their verdicts, for the JSON file."""
    return [{**asdict(target), "met": target.met} for target in found]


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown that also reads well on a terminal."""
    limit = results["limit"]
    return "\n\n".join(
        [
            _heading(results),
            "### The limit, part by part",
            markdown_table(["part", "CPU ms an image", "wall ms", "share"], _limit_rows(limit)),
            _limit_line(limit),
            "### tagger tag, from S3 to committed rows",
            markdown_table(
                _ENGINE_HEADER,
                [_engine_row(run, limit["images_per_s"]) for run in results["engine"]],
            ),
            _retag_line(results["retag"]),
            f"### Peers, over the same {results['peer_images']:,} images on the same server",
            (
                f"After start-up, tagger's is the steady rate of its run over {results['images']:,} images: "
                f"in {results['peer_images']:,} it has hardly begun. Whole runs are over the same images."
            ),
            markdown_table(
                _PEER_HEADER,
                _peer_rows(results),
            ),
            "### Promises",
            targets_table(targets(results)),
        ]
    )


def targets_table(found: Sequence[Target]) -> str:
    """Return promises beside what was measured."""
    return markdown_table(["", "promised", "measured", ""], [_target_row(target) for target in found])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is set left and the others right, padded so that it lines up as text.

    Raises:
        ValueError: A row is not as long as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells where the header has {len(header)}")
    widths = [max(3, *(len(line[n]) for line in [header, *rows])) for n in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def replace_block(text: str, block: str, *, begin: str = BEGIN, end: str = END) -> str:
    """Return `text` with what stands between the two markers replaced by `block`.

    Raises:
        ValueError: The markers are not both there exactly once, in their order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text must hold {begin!r} and then {end!r}, each once")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{block}\n\n{end}{rest.partition(end)[2]}"


def publish(
    name: str, results: dict[str, Any], text: str, *, page: Path | None, begin: str, end: str
) -> None:
    """Write results as JSON to bench/results/, print their text, and put it between its markers in a page.

    Args:
        name: Of the bench; the file is named by it and the time.
        results: Everything that was measured.
        text: The same as Markdown.
        page: None leaves the docs as they are.
        begin: Marker before the text.
        end: Marker behind it.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten to {path}")
    if page is not None:
        old = page.read_text(encoding="utf-8")
        page.write_text(replace_block(old, text, begin=begin, end=end), encoding="utf-8")


def medians(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number over turns; of those that have one, and None where none has."""
    found = {}
    for name in turns[0]:
        values = [turn[name] for turn in turns if turn[name] is not None]
        found[name] = float(statistics.median(values)) if values else None
    return found


def measured_on(results: dict[str, Any]) -> str:
    """Return when and on which machine results were measured, as a sentence."""
    machine = results["machine"]
    quick = (
        " (a quick run: it shows that the bench works, the numbers say little)" if results["quick"] else ""
    )
    return (
        f"Measured {results['date']}{quick}: {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}."
    )


def _heading(results: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(results["machine"]["versions"].items())
    )
    return (
        f"{measured_on(results)} "
        f"JPEG photos of 800 by 600 pixels, {results['bytes_each'] / 1000:.0f} KB each, on SeaweedFS on the "
        f"same machine. Load average before: {results['load_before']:.2f}.\n\nVersions: {versions}."
    )


def _limit_line(limit: dict[str, Any]) -> str:
    rate = f"**{limit['images_per_s']:.0f} images/s**"
    return f"Limit: {limit['cores']} cores ÷ {limit['sum_ms']:.2f} ms = {rate}."


def _retag_line(retag: dict[str, Any]) -> str:
    seconds = retag.get("wall_s")
    took = f"{seconds:.1f} s" if seconds is not None else "no end"
    return (
        f"`tagger retag` of {retag['rows']:,} rows, from their stored embeddings: {took}, start-up included."
    )


def _limit_rows(limit: dict[str, Any]) -> list[list[str]]:
    rows = [
        [
            part["name"],
            f"{part['cpu_ms']:.3f}",
            f"{part['wall_ms']:.3f}",
            f"{part['cpu_ms'] / limit['sum_ms']:.0%}",
        ]
        for part in limit["parts"]
    ]
    return [*rows, ["sum", f"{limit['sum_ms']:.3f}", "", "100%"]]


def _engine_row(run: dict[str, Any], limit: float) -> list[str]:
    roles = run.get("peak_bytes_by_role", {})
    return [
        f"{run['images']:,}",
        _number(run.get("whole_images_per_s")),
        _number(_ratio(run.get("whole_images_per_s"), limit), 2),
        _number(run.get("images_per_s")),
        _number(_ratio(run.get("images_per_s"), limit), 2),
        _number(run.get("first_rows_s"), 1),
        _number(run.get("start_up_s"), 1),
        _number(run.get("tail_s"), 1),
        _number(_cpu_ms(run), 2),
        _number(_ratio(run.get("peak_bytes"), _MB)),
        *(_number(_ratio(roles.get(role), _MB)) for role in ("driver", "workers", "ray")),
        str(run.get("exit_code", _NONE)),
        str(run.get("check", {}).get("exit_code", _NONE)),
    ]


def _cpu_ms(run: dict[str, Any]) -> float | None:
    """Return what all processes and the server used; to compare with the sum of the limit."""
    if "cpu_s" not in run:
        return None
    return float((run["cpu_s"] + run["server_cpu_s"]) * 1000 / run["images"])


def _peer_rows(results: dict[str, Any]) -> list[list[str]]:
    runs = {run["images"]: run for run in results["engine"]}
    steady = runs[results["images"]].get("images_per_s")
    same = runs[results["peer_images"]]
    whole = same.get("whole_images_per_s")
    rows = [
        [
            PEERS[name],
            _number(peer.get("images_per_s"), 1),
            _number(peer.get("whole_images_per_s"), 1),
            _number(_ratio(peer.get("peak_bytes"), _MB)),
            _number(_ratio(steady, peer.get("images_per_s")), 1),
            _number(_ratio(whole, peer.get("whole_images_per_s")), 1),
        ]
        for name, peer in results["peers"].items()
    ]
    mine = [_number(steady, 1), _number(whole, 1), _number(_ratio(same.get("peak_bytes"), _MB))]
    return [["tagger tag", *mine, "1.0", "1.0"], *rows]


def _target_row(target: Target) -> list[str]:
    verdict = {True: "met", False: "MISSED", None: "not measured"}[target.met]
    digits = 1 if target.bound >= 1.5 else 2
    return [target.name, f"{target.relation} {target.bound:g}", _number(target.value, digits), verdict]


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def _whole(run: dict[str, Any], limit: float) -> float | None:
    return _ratio(run.get("whole_images_per_s"), limit)


def _number(value: float | None, digits: int = 0) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"
