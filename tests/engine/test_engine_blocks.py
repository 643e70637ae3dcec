import numpy as np
import pyarrow as pa
import pytest

from tagger.engine.blocks import array_of, bytes_of, chunk_number, pack, table_of
from tagger.engine.machines import Machines
from tagger.engine.resources import choose_layout
from tagger.errors import UsageError


def test_a_chunk_survives_packing():
    rows = pa.table({"image_id": ["a", None, "c"], "n": [1, 2, 3]})
    pixels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8)
    block = pack(7, rows=rows, pixels=pixels, seconds=b"{}")
    assert block.num_rows == 1
    assert chunk_number(block) == 7
    assert table_of(block, "rows").equals(rows)
    assert np.array_equal(array_of(block, "pixels", (3, 4, 4, 3)).reshape(-1), pixels)
    assert bytes_of(block, "seconds") == b"{}"


def test_pixels_are_read_out_of_a_block_without_a_copy():
    pixels = np.arange(1 << 20, dtype=np.uint8)
    block = pack(1, before=b"abc", pixels=pixels, empty=b"")
    assert np.shares_memory(array_of(block, "pixels", (1 << 20,)), pixels)
    sliced = pa.concat_tables([block, pack(2, before=b"", pixels=pixels[:7], empty=b"x")]).combine_chunks()
    assert bytes_of(sliced.slice(1, 1), "pixels") == pixels[:7].tobytes()
    assert (bytes_of(sliced.slice(0, 1), "empty"), bytes_of(sliced.slice(1, 1), "empty")) == (b"", b"x")


def test_two_chunks_in_one_block_are_a_bug():
    block = pa.concat_tables([pack(1, a=b"x"), pack(2, a=b"y")])
    with pytest.raises(ValueError, match="exactly one chunk"):
        chunk_number(block)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 63, 64, 96])
@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_the_stages_never_ask_for_more_than_there_is(cpus, gpus):
    layout = choose_layout([Machines(cpus, gpus, now=1, most=1)])
    assert layout.cpus <= cpus + 1e-9
    assert layout.fetch_tasks >= 1
    assert layout.fetch_cpus > 0
    assert layout.model_actors * layout.model_gpus <= gpus
    if not gpus:
        assert layout.model_actors * layout.model_threads <= max(cpus, layout.model_threads)


@pytest.mark.parametrize("fetch_tasks", [1, 5, 40])
def test_overrides_keep_within_the_cluster(fetch_tasks):
    layout = choose_layout([Machines(4, 0, now=1, most=1)], fetch_tasks=fetch_tasks, model_actors=2)
    assert (layout.fetch_tasks, layout.model_actors) == (fetch_tasks, 2)
    assert layout.cpus <= 4


def test_nonsense_overrides_are_refused():
    with pytest.raises(UsageError, match="--chunk-rows must be at most 512, got 513"):
        choose_layout([Machines(2, 0, now=1, most=1)], chunk_rows=513)
    with pytest.raises(UsageError, match="--fetch-tasks must be at least 1, got 0"):
        choose_layout([Machines(2, 0, now=1, most=1)], fetch_tasks=0)
