"""The bench's arithmetic, tables and page; its measurements are made by `make bench`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # bench/ is a folder of the repository, not a part of the package

from bench import engine, limit, machine, memory, peer_runs, photos, report  # noqa: E402


def cost(name: str, *ms: float) -> limit.Cost:
    return limit.Cost.of(name, ms, ms)


def test_limit_is_cores_over_the_sum_of_cpu_seconds():
    parts = [cost("fetch", 0.2), cost("decode", 1.3), cost("model", 2.5)]
    assert limit.limit_of(parts, 2) == pytest.approx(500.0)
    assert limit.summary(parts, cores=8, images=10)["images_per_s"] == pytest.approx(2000.0)


def test_a_cost_is_the_median_of_its_repeats():
    assert cost("decode", 3.0, 1.0, 100.0).cpu_ms == 3.0


def test_merged_runs_take_medians_over_all_repeats():
    one = limit.summary([cost("a", 1.0, 1.0, 5.0), cost("b", 2.0)], cores=2, images=10)
    two = limit.summary([cost("a", 3.0, 3.0), cost("b", 2.0)], cores=2, images=10)
    merged = limit.merge([one, two])
    assert [part["cpu_ms"] for part in merged["parts"]] == [3.0, 2.0]
    assert merged["sum_ms"] == 5.0
    assert merged["images_per_s"] == pytest.approx(400.0)


def test_steady_rate_ignores_start_and_tail():
    slow_start = [100.0] * 200  # the first 20 % came at once, late
    middle = [101.0 + n for n in range(7) for _ in range(100)]
    tail = [500.0] * 100
    assert engine.steady_rate(slow_start + middle + tail) == pytest.approx(100.0)


def test_steady_rate_counts_chunks_of_unequal_size_by_when_they_were_done():
    times = [0.0] * 20 + [1.0] * 10 + [3.0] * 60 + [9.0] * 10
    assert engine.steady_rate(times) == pytest.approx((10 + 60) / 3)


@pytest.mark.parametrize("times", [[], [1.0], [1.0] * 300, [1.0] * 256 + [2.0] * 44])
def test_steady_rate_of_a_run_too_short_to_tell_is_none(times: list[float]):
    assert engine.steady_rate(times) is None


def test_table_lines_up_as_text():
    table = report.markdown_table(["part", "ms"], [["model", "3.90"], ["sha256", "0.04"]])
    assert table == (
        "| part   |   ms |\n"
        "| ------ | ---: |\n"
        "| model  | 3.90 |\n"
        "| sha256 | 0.04 |"
    )  # fmt: skip


def test_table_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="2 cells where the header has 1"):
        report.markdown_table(["a"], [["1", "2"]])


def test_the_block_between_the_markers_is_replaced_and_nothing_else():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.replace_block(text, "new")
    assert once == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.replace_block(once, "new") == once


@pytest.mark.parametrize(
    "text",
    ["", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN}{report.BEGIN}{report.END}"],
)
def test_a_page_without_its_markers_is_refused(text: str):
    with pytest.raises(ValueError, match="each once"):
        report.replace_block(text, "new")


def test_the_page_has_its_markers():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert report.replace_block(page, "x").count("\nx\n") == 1


def some_results(**changed: Any) -> dict[str, Any]:
    def run(images: int, **more: float) -> dict[str, Any]:
        return {
            "images": images,
            "exit_code": 0,
            "check": {"exit_code": 0},
            "whole_images_per_s": 160.0,
        } | more

    results = {
        "date": "2026-01-02",
        "quick": False,
        "images": 10_000,
        "large": 10_000,
        "peer_images": 1000,
        "bytes_each": 73_000,
        "load_before": 0.0,
        "machine": machine.describe(),
        "limit": limit.summary([cost("model", 8.0), cost("all measurements", 2.0)], cores=2, images=1000),
        "engine": [run(1000), run(10_000, images_per_s=190.0, first_rows_s=7.5, peak_own_bytes=100)],
        "retag": {"rows": 10_000, "wall_s": 2.5},
        "peers": {"daft_images": {"images_per_s": 40.0, "whole_images_per_s": 32.0}},
    }
    return results | changed


def test_promises_are_judged_from_one_runs_numbers():
    verdicts = {target.name: (target.value, target.met) for target in report.targets(some_results())}
    assert verdicts["engine, steady ÷ limit"] == (pytest.approx(0.95), True)
    assert verdicts["engine, whole command at 10,000 ÷ limit"] == (pytest.approx(0.80), True)
    assert verdicts["first rows committed after (s)"] == (7.5, True)
    assert verdicts["all measurements (CPU ms an image)"] == (2.0, False)
    assert verdicts[f"engine, steady ÷ {peer_runs.PEERS['daft_images']}"] == (pytest.approx(4.75), True)
    assert verdicts[f"engine, steady ÷ {peer_runs.PEERS['ray_data_images']}"] == (None, None)


def test_growth_of_memory_is_judged_when_the_large_run_was_made():
    results = some_results(large=100_000, retag={"rows": 100_000, "wall_s": 8.0})
    results["engine"].append({"images": 100_000, "peak_own_bytes": 120, "whole_images_per_s": 190.0})
    met = {target.name: target.met for target in report.targets(results)}
    assert met["peak memory of driver and workers at 100,000 ÷ at 10,000"] is False
    assert met["engine, whole command at 100,000 ÷ limit"] is True
    assert met["retag of 100,000 rows (s)"] is True


def test_report_shows_what_was_measured_and_what_was_not():
    text = report.render(some_results())
    assert "Limit: 2 cores ÷ 10.00 ms = **200 images/s**." in text
    assert "MISSED" in text
    assert "not measured" in text


def test_a_process_and_what_it_starts_are_one_family():
    # A child that leaves its parent, as Ray's services and the decoders of a killed worker do.
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()']).wait()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            known: dict[int, int] = {}
            while len(members := memory.family(process.pid, known)) < 2:
                assert process.poll() is None
            child = next(p for p in members if p.pid != process.pid)
            assert child.parent == process.pid
            assert os.getpid() not in known
            assert memory.pss_bytes(child.pid) > 0
        finally:
            process.kill()
            process.wait()
        assert [p.pid for p in memory.family(process.pid, known)] == [child.pid]
        assert process.stdin is not None
        process.stdin.close()  # ends the child


def test_watch_sees_memory_and_cpu_time():
    script = (
        "x = bytearray(80_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with memory.Watch(process.pid) as watch:
            watch.sample()
        process.communicate(b"\n")
    found = watch.summary()
    assert found["peak_bytes"] >= 80_000_000
    assert found["peak_bytes_by_role"]["driver"] == found["peak_bytes"]
    assert found["cpu_s"] > 0


def test_a_prefix_holds_exactly_the_images_asked_for():
    made = photos.Photos(None, Bucket(), None, 2000, 5000, 1)  # type: ignore[arg-type]
    assert [made.source(n) for n in (1000, 2000, 5000)] == ["s3://p/a/000/", "s3://p/a/", "s3://p/"]
    assert made.keys(2)[1] == "a/000/photo_0000001.jpg"
    assert made.keys(2000)[-1] == "a/001/photo_0001999.jpg"
    assert photos.Photos(None, Bucket(), None, 300, 300, 1).source(300) == "s3://p/a/000/"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no prefix with 7"):
        made.source(7)


class Bucket:
    uri = "s3://p"


def test_rows_of_a_peer_are_counted_in_its_files(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "deep").mkdir()
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "deep" / "a.parquet")
    (tmp_path / "b.csv").write_text('k,1\n"a\nb",2\n')
    assert peer_runs.count_rows(tmp_path) == 5


def test_modules_import_neither_torch_nor_ray():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench.run; "
        "print(*{'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
