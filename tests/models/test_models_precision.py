"""What a CPU is fastest in is tried once and remembered."""

from tagger.models.cache import read_record, write_record
from tagger.models.precision import cpu_precision, try_precisions


def test_it_is_tried_once_and_remembered(tmp_path):
    answer = cpu_precision(tmp_path)
    records = list(tmp_path.rglob("cpu-*.json"))
    if not records:  # a CPU that has no bf16 has nothing to try
        assert answer == "f32"
        return
    (path,) = records
    record = read_record(path)
    assert set(record["seconds"]) == {"bf16", "f32"}
    assert answer == min(record["seconds"], key=record["seconds"].get)
    other = {"bf16": "f32", "f32": "bf16"}[answer]
    write_record(path, {**record, "fastest": other})
    assert cpu_precision(tmp_path) == other  # it was read, not tried again


def test_an_altered_answer_is_tried_again(tmp_path):
    cpu_precision(tmp_path)
    for path in tmp_path.rglob("cpu-*.json"):
        path.write_bytes(path.read_bytes().replace(b'"fastest"', b'"slowest"'))
        cpu_precision(tmp_path)
        assert set(read_record(path)) == {"fastest", "seconds"}  # written anew


def test_both_are_timed():
    seconds = try_precisions()
    assert list(seconds) == ["bf16", "f32"]
    assert all(0 < each < 10 for each in seconds.values())
