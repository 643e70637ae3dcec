import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagger.collection import Part
from tagger.engine.ledger import FIRST_FLUSH_S, FLUSH_S, GROUP_ROWS, Groups, Ledger
from tagger.engine.parts import Receipt
from tagger.errors import SETTLED_CODES, StoreUnavailable


def receipt(*chunks, tagged=None, errors=None, known=0):
    rows = sum(n for _, n in chunks)
    errors = errors or {}
    part = Part("p", 1, rows, "{}")
    read = sum(n for code, n in errors.items() if code not in SETTLED_CODES)
    return Receipt(
        (part,),
        tuple(chunks),
        tagged=rows - sum(errors.values()) if tagged is None else tagged,
        errors=errors,
        read_failures=read,
        known_failures=known,
    )


def test_a_chunk_is_committed_once():
    ledger = Ledger()
    first = receipt((0, 10), (1, 10))
    assert ledger.accept(first) == [first]
    ledger.committed([first])
    assert ledger.accept(receipt((1, 10))) == []
    assert ledger.missing(4) == [2, 3]
    assert (ledger.tagged, ledger.failed) == (20, 0)


def test_a_chunk_that_waits_for_its_commit_is_not_given_out_again():
    ledger = Ledger()
    first = receipt((1, 5), (2, 5))
    assert ledger.accept(first) == [first]
    assert ledger.accept(receipt((2, 5))) == []
    other = receipt((3, 5))
    assert ledger.accept(other) == [other]
    ledger.committed([first, other])
    assert ledger.missing(4) == [0]


def test_failed_reads_wait_for_a_success():
    ledger = Ledger()
    dark = receipt((0, 50), errors={"read_error": 50})
    light = receipt((1, 50), errors={"read_error": 49})
    assert ledger.accept(dark) == []
    assert ledger.accept(light) == [dark, light]


def test_failed_reads_at_the_end_are_rows():
    ledger = Ledger()
    dark = receipt((0, 50), errors={"not_found": 50})
    assert ledger.accept(dark) == []
    assert ledger.last() == [dark]


def test_failures_of_the_images_themselves_are_no_outage():
    ledger = Ledger()
    bad = receipt((0, 500), errors={"corrupt": 500})
    assert ledger.accept(bad) == [bad]


def test_an_outage_stops_the_run_with_nothing_written():
    ledger = Ledger(give_up_after=200)
    assert ledger.accept(receipt((0, 150), errors={"timeout": 150})) == []
    with pytest.raises(StoreUnavailable, match="200 reads in a row failed"):
        ledger.accept(receipt((1, 50), errors={"timeout": 50}))


def test_images_that_failed_like_that_before_are_no_sign_of_an_outage():
    ledger = Ledger(give_up_after=200)
    held = [receipt((n, 100), errors={"forbidden": 100}, known=90) for n in range(4)]
    for one in held:
        assert ledger.accept(one) == []
    assert ledger.last() == held
    with pytest.raises(StoreUnavailable, match="200 reads in a row failed"):
        ledger.accept(receipt((9, 900), errors={"forbidden": 900}, known=700))


@given(st.lists(st.integers(0, 30), max_size=60))
def test_every_chunk_is_counted_once_whatever_comes_twice(numbers):
    ledger = Ledger()
    for number in numbers:
        ready = ledger.accept(receipt((number, 3)))
        ledger.committed(ready)
    assert ledger.tagged == 3 * len(set(numbers))
    assert ledger.missing(31) == sorted(set(range(31)) - set(numbers))


def test_groups_are_due_by_time_and_by_size():
    now = [0.0]
    groups = Groups(chunk_rows=512, started=0.0, clock=lambda: now[0])
    groups.add("a")
    assert groups.due() == []
    now[0] = FIRST_FLUSH_S
    assert groups.due() == ["a"]
    groups.add("b")
    assert groups.due() == []
    now[0] += FLUSH_S
    assert groups.due() == ["b"]
    full = GROUP_ROWS // 512
    for n in range(full + 1):
        groups.add(n)
    assert groups.due() == list(range(full))
    assert groups.due() == []
    assert groups.due(all_of_it=True) == [full]
