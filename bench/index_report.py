"""Results of `python -m bench.index` → tables, promises, and their block in docs/benchmarks.md."""

from __future__ import annotations

from typing import Any, Final

from bench.lookalike import TAUGHT
from bench.report import Target, markdown_table, measured_on, targets_table

BEGIN: Final = "<!-- index: begin, written by `python -m bench.index --write-docs` -->"
END: Final = "<!-- index: end -->"

_WHOLE, _RANKS, _BARE = "tagger, whole query", "tagger, ranks", "bare FAISS"
_MB: Final = 1e6
_NONE: Final = "\N{EN DASH}"


def targets(results: dict[str, Any]) -> list[Target]:
    """Compare what was measured with what tagger promises of its index on a machine of two cores.

    A --quick run is judged by the images it has: it shows that the bench works, not that the promises hold.
    """
    small, large = results.get("small"), results.get("large")
    return [*(_large_targets(large) if large else ()), *(_small_targets(small) if small else ())]


def _large_targets(large: dict[str, Any]) -> list[Target]:
    turns, update, at = large["unfiltered"], large["update"], f"at {large['count']:,}"
    beside_bare = [
        (
            f"{name} ÷ {_BARE}, {percentile}, {_threads(threads)}",
            _beside(turns, name, _BARE, threads, percentile),
        )
        for name in (_RANKS, _WHOLE)
        for threads in ("1", "8")
        for percentile in ("p50", "p99")
    ]
    update_share = _ratio(update["index"]["wall_s"], large["build"]["wall_s"])
    came_back = f"removed images in the answers to {update['queries']:,} queries"
    return [
        Target(f"recall@10 {at}", "≥", 0.95, turns[_WHOLE]["recall"]),
        *(
            Target(f"recall@10 {at}, filter of {_share(tag)}", "≥", 0.95, large["filtered"][tag]["recall"])
            for tag in ("sale", "rare")
        ),
        *(Target(name, "≤", 1.3, value) for name, value in beside_bare),
        Target("update of 1 % ÷ build, time", "≤", 0.1, update_share),
        Target("recall@10 after the update", "≥", 0.95, update["recall"]),
        Target(came_back, "≤", 0, update["removed_found"]),
    ]


def _small_targets(small: dict[str, Any]) -> list[Target]:
    at = f"at {small['count']:,}"
    plain, filtered = small["unfiltered"]["engines"], small["filtered"]["engines"]
    return [
        Target(f"LanceDB ÷ tagger {at}", "≥", 1, _beside(plain, "LanceDB", _WHOLE)),
        Target(f"tagger ÷ hnswlib {at}", "≤", 1.5, _beside(plain, _WHOLE, "hnswlib")),
        *(
            Target(f"{peer} ÷ tagger {at}, filter of 1 %", "≥", 1, _beside(filtered, peer, _WHOLE))
            for peer in ("LanceDB", "hnswlib", "usearch")
        ),
    ]


def _beside(
    turns: dict[str, Any], one: str, other: str, threads: str = "1", percentile: str = "p50"
) -> float | None:
    """Return the time of an engine divided by that of another; None where one of them was not measured."""
    if one not in turns or other not in turns:
        return None
    mine, its = (turns[name]["threads"][threads][f"{percentile}_ms"] for name in (one, other))
    return _ratio(mine, its)


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown that also reads well on a terminal."""
    small, large = results.get("small"), results.get("large")
    return "\n\n".join(
        [
            _heading(results),
            *(_large_tables(large) if large else ()),
            *(_small_tables(small) if small else ()),
            "### How alike the look-alikes are",
            f"Of {results['alike']['real']['rows']:,} each; percentiles 5, 50 and 95.",
            markdown_table(_ALIKE_HEADER, [_alike_row(name, of) for name, of in results["alike"].items()]),
            "### Promises of the index",
            targets_table(targets(results)),
        ]
    )


def _large_tables(large: dict[str, Any]) -> list[str]:
    return [
        f"### {large['count']:,} images",
        _facts(large),
        _turns_table(large["unfiltered"]),
        "With a filter, whole queries:",
        markdown_table(_FILTER_HEADER, [_filter_row(tag, of) for tag, of in large["filtered"].items()]),
        "Time and memory of commands, start-up included:",
        markdown_table(_COMMAND_HEADER, _command_rows(large)),
        _update_facts(large["update"]),
    ]


def _small_tables(small: dict[str, Any]) -> list[str]:
    tables = [
        f"### Kinds, at {small['count']:,} images",
        markdown_table(_KIND_HEADER, [_kind_row(kind, of) for kind, of in small["kinds"].items()]),
        f"### Peers, at {small['count']:,} images",
        f"At a recall@10 of at least {small['unfiltered']['least']:.3f}, which is tagger's:",
        _turns_table(small["unfiltered"]["engines"]),
        f"With a filter that admits {small['admitted']:,} images, at a recall@10 of at least 0.95:",
        _turns_table(small["filtered"]["engines"]),
    ]
    if len(small["built"]) > 2:
        tables += ["Built with all cores:", markdown_table(_PEER_HEADER, _built_rows(small))]
    return tables


_TURNS_HEADER: Final = (
    *("", "effort", "recall@10", "p50 ms, 1 thread", "p99 ms", "p50 ms, 8 threads", "p99 ms", "queries/s"),
)
_FILTER_HEADER: Final = ("filter", "images", *_TURNS_HEADER[2:], "first query ms")
_COMMAND_HEADER: Final = ("", "s", "CPU s", "peak MB", "recall@10")
_KIND_HEADER: Final = (
    *("", "build s", "peak MB", "files MB", "bytes a vector: own", "mapped", "open s", "recall@10"),
    *("p50 ms, 1 thread", "p99 ms", "queries/s, 8 threads"),
)
_PEER_HEADER: Final = ("", "build s", "own MB", "mapped MB", "settings")
_ALIKE_HEADER: Final = (
    *("", "cosine to the nearest", "to the 10th", "of random pairs", "axes for 90, 95, 99 %", "zeros"),
)


def _heading(results: dict[str, Any]) -> str:
    plan = results["plan"]
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(results["machine"]["versions"].items())
    )
    return (
        f"{measured_on(results)} "
        f"{plan['queries']:,} queries, {plan['rounds']} rounds. Load average before: "
        f"{results['load_before']:.2f}.\n\nVersions: {versions}."
    )


def _facts(large: dict[str, Any]) -> str:
    opened = large["opened"]
    return (
        f"Index of kind {opened['kind']}: {opened['lists']:,} lists, codes of {opened['code_bytes']} bytes, "
        f"{opened['nprobe']} lists looked into and {opened['depth']} candidates ranked for a query. "
        f"{opened['bytes'] / _MB:,.0f} MB of files ({_sizes(opened['files'])}). "
        f"It opens in {large['cold']['build_s']:.1f} s after a restart (no page of it is cached) and in "
        f"{opened['build_s']:.1f} s after that, every file checked against its sha256. Open, it takes "
        f"{opened['own_bytes'] / large['count']:,.0f} bytes of memory a vector; the exact vectors are mapped."
    )


def _sizes(files: dict[str, int]) -> str:
    kinds: dict[str, int] = {}
    for name, size in files.items():
        kind = "vectors" if name.startswith("vectors") else name.partition(".")[0]
        kinds[kind] = kinds.get(kind, 0) + size
    return ", ".join(
        f"{kind} {size / _MB:,.0f}" for kind, size in sorted(kinds.items(), key=lambda pair: -pair[1])
    )


def _turns_table(turns: dict[str, Any]) -> str:
    return markdown_table(
        _TURNS_HEADER, [[name, _effort(of["effort"]), *_turn_cells(of)] for name, of in turns.items()]
    )


def _turn_cells(of: dict[str, Any]) -> list[str]:
    one, many = of["threads"]["1"], of["threads"]["8"]
    return [
        f"{of['recall']:.3f}",
        *(f"{value:.2f}" for value in (one["p50_ms"], one["p99_ms"], many["p50_ms"], many["p99_ms"])),
        f"{many['per_s']:,.0f}",
    ]


def _filter_row(tag: str, of: dict[str, Any]) -> list[str]:
    return [_share(tag), f"{of['admitted']:,}", *_turn_cells(of), f"{of['first_ms']:.1f}"]


def _command_rows(large: dict[str, Any]) -> list[list[str]]:
    commands = {
        "`tagger index`, the first time": large["build"],
        "`tagger index` after 1 % was changed": large["update"]["index"],
        "`tagger index` after `tagger retag`": large["retag"]["index"],
    }
    return [
        [
            name,
            f"{of['wall_s']:.1f}",
            f"{of['cpu_s']:.1f}",
            f"{of['peak_bytes'] / _MB:,.0f}",
            _NONE if of["recall_at_10"] is None else f"{of['recall_at_10']:.3f}",
        ]
        for name, of in commands.items()
    ]


def _update_facts(update: dict[str, Any]) -> str:
    return " ".join(
        [
            f"{update['removed']:,} images were removed, {update['retagged']:,} tagged again with other",
            f"embeddings and {update['new']:,} are new, all over the table;",
            f"the index was {update['index']['how']}. Afterwards recall@10 is {update['recall']:.3f}.",
            f"Of the changed images {update['changed_found']:.1%} are found by their own embedding.",
            f"{update['removed_found']} removed ones came back in {update['queries']:,} queries,",
            "those with their old embeddings among them.",
        ]
    )


def _kind_row(kind: str, of: dict[str, Any]) -> list[str]:
    opened, one, many = of["opened"], of["threads"]["1"], of["threads"]["8"]
    mapped = sum(size for name, size in opened["files"].items() if name.startswith("vectors"))
    return [
        kind,
        f"{of['wall_s']:.1f}",
        f"{of['peak_bytes'] / _MB:,.0f}",
        f"{opened['bytes'] / _MB:,.0f}",
        f"{opened['own_bytes'] / opened['count']:,.0f}",
        f"{mapped / opened['count']:,.0f}",
        f"{opened['build_s']:.2f}",
        f"{of['recall']:.3f}",
        f"{one['p50_ms']:.2f}",
        f"{one['p99_ms']:.2f}",
        f"{many['per_s']:,.0f}",
    ]


def _built_rows(small: dict[str, Any]) -> list[list[str]]:
    ivf = small["kinds"]["ivf"]
    mine = [
        "tagger",
        f"{ivf['wall_s']:.1f}",
        *_memory_cells(ivf["memory"]),
        "`tagger index`, start-up included",
    ]
    rows = [mine]
    for name, of in small["built"].items():
        if name not in ("tagger", _BARE):
            rows.append([name, f"{of['build_s']:.1f}", *_memory_cells(of["memory"]), of["settings"]])
    return rows


def _memory_cells(memory: dict[str, int]) -> list[str]:
    return [f"{memory[name] / _MB:,.0f}" for name in ("own", "mapped")]


def _alike_row(name: str, of: dict[str, Any]) -> list[str]:
    spans = [" ".join(f"{value:.2f}" for value in of[key]) for key in ("nearest", "tenth", "random")]
    return [name, *spans, ", ".join(str(axes) for axes in of["axes"]), f"{of['zeros']:.0%}"]


def _effort(effort: dict[str, Any]) -> str:
    if not effort or "path" in effort:
        return _NONE
    return ", ".join(str(value) if name == "index" else f"{name} {value}" for name, value in effort.items())


def _share(tag: str) -> str:
    return f"{TAUGHT[tag] * 100:g} %"


def _threads(number: str) -> str:
    return "1 thread" if number == "1" else f"{number} threads"


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None
