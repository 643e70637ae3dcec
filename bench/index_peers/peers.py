"""The peers, and how hard each of them can be asked to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Effort = dict[str, Any]
Ladder = list[Effort]


@dataclass(frozen=True)
class Peer:
    """An engine to compare with.

    Attributes:
        module: Its module in this folder.
        ladders: Efforts, each ladder from the least to the most; of every ladder the first that finds enough
            is tried for time, and the fastest of those counts.
        filtered: The same with a filter.
    """

    module: str
    ladders: list[Ladder]
    filtered: list[Ladder]


def _hnsw(*steps: int) -> list[Ladder]:
    return [[{"ef": ef} for ef in steps]]


def _lance(probes: tuple[int, ...], efs: tuple[int, ...]) -> list[Ladder]:
    graph: Effort = {"index": "IVF_HNSW_SQ", "nprobes": 1}
    lists: Effort = {"index": "IVF_RQ"}
    return [
        [{**graph, "ef": ef} for ef in efs],
        [{**graph, "ef": ef, "refine": 2} for ef in efs if ef >= 2 * 10],  # it asks for that
        *([{**lists, "nprobes": n, "refine": factor} for n in probes] for factor in (3, 8)),
    ]


PEERS = {
    "LanceDB": Peer(
        "lance_db",
        _lance((2, 4, 8, 12, 16, 24, 32, 48, 64), (15, 30, 60, 90, 120, 160, 200, 300, 400, 600)),
        _lance((4, 8, 16, 32, 64, 128), (15, 30, 60, 120, 240, 480)),
    ),
    "hnswlib": Peer(
        "hnsw_lib",
        _hnsw(10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200, 250, 300, 400, 600, 800, 1200),
        _hnsw(10, 20, 40, 80, 160, 320, 640),
    ),
    "usearch": Peer(
        "usearch_index",
        [
            [
                {"expansion": expansion}
                for expansion in (
                    16,
                    24,
                    32,
                    48,
                    64,
                    80,
                    96,
                    112,
                    128,
                    160,
                    200,
                    256,
                    320,
                    400,
                    600,
                    800,
                    1200,
                )
            ]
        ],
        [
            [
                {"expansion": count, "count": count}
                for count in (500, 1000, 2000, 3000, 4000, 6000, 8000, 12000)
            ]
        ],
    ),
}
