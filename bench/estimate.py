"""What `--dry-run --price` says against what the run then takes: `python -m bench.estimate`.

python -m bench.estimate                        1,000, 4,000 and 10,000 photos on an S3 server of this machine
python -m bench.estimate --sizes 200 --quick    to see that it works
python -m bench.estimate --write-docs           put the table into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import machine, report
from tagger.testing import SeaweedFS, make_photos, put_photos

PAGE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- estimate: begin, written by `python -m bench.estimate --write-docs` -->"
END: Final = "<!-- estimate: end -->"
SIZES: Final = (1_000, 4_000, 10_000)
PRICE_USD_PER_HOUR: Final = 3.2  # any: what counts is the ratio


def main() -> int:
    """Estimate and run each size, print, and with --write-docs put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    a = parser.parse_args()
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "quick": a.quick,
        "machine": machine.describe(),
        "sizes": [measure(photos) for photos in a.sizes],
    }
    page = PAGE if a.write_docs else None
    report.publish("estimate", results, render(results), page=page, begin=BEGIN, end=END)
    return 0


def measure(photos: int) -> dict[str, Any]:
    """Return the estimate for so many photos, and the run."""
    with tempfile.TemporaryDirectory(prefix="bench-estimate-") as folder, SeaweedFS(folder) as server:
        bucket = server.bucket()
        put_photos(bucket, make_photos(photos), prefix="photos/")
        line = ("tag", f"{bucket.uri}/photos", f"{bucket.uri}/collection", "--quiet", "--json")
        said = _tagger(*line, "--dry-run", "--price", str(PRICE_USD_PER_HOUR), env=server.env())
        return {"photos": photos, "estimate": said, "run": _tagger(*line, env=server.env())}


def render(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = []
    for one in results["sizes"]:
        said, seconds = one["estimate"], one["run"]["seconds"]
        rows.append(
            [
                f"{one['photos']:,}",
                f"{said['estimated_seconds']:.1f}",
                f"{seconds:.1f}",
                f"{said['estimated_seconds'] / seconds:.2f}",
                f"{said['estimated_cost']:.4f}",
                f"{seconds / 3600 * PRICE_USD_PER_HOUR:.4f}",
            ]
        )
    header = ["images", "estimated s", "run s", "estimated ÷ run", "estimated USD", "run USD"]
    return f"{report.measured_on(results)}\n\n{report.markdown_table(header, rows)}"


def _tagger(*arguments: str, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tagger", *arguments],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


if __name__ == "__main__":
    sys.exit(main())
