"""A store that fails in every way, one at a time."""

import itertools
import time

import pytest

from tagger.errors import ImageError, SourceError, StoreUnavailable, UsageError
from tagger.storage import AlreadyExists, open_store
from tagger.storage.faults import from_answer
from tagger.testing import Answer, RawS3

BODY = bytes(range(256)) * 400


@pytest.fixture
def raw(monkeypatch):
    with RawS3({"a.jpg": BODY, "odd\tkey": BODY}) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TAGGER_PATIENCE_S", "1")
        monkeypatch.setenv("TAGGER_REQUEST_TIMEOUT_S", "1")
        yield server


def always(answer):
    return lambda _method, _key: answer


def times(n, answer):
    left = itertools.chain([answer] * n, itertools.repeat(None))
    return lambda _method, _key: next(left)


# Through obstore, and through boto3.
@pytest.fixture(params=["a.jpg", "odd\tkey"])
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(403, "AccessDenied"), "forbidden"),
        (Answer(404, "NoSuchKey"), "not_found"),
        (Answer(412, "PreconditionFailed"), "changed"),
        (Answer(503, "SlowDown"), "read_error"),
        (Answer(500, "InternalError"), "read_error"),
        (Answer(403, "InvalidObjectState"), "forbidden"),
        (Answer(0, silent_s=3), "timeout"),
        (Answer(cut_at=1000), "read_error"),
    ],
)
def test_a_failed_read_is_that_image_only(raw, name, answer, code):
    raw.fault = always(answer)
    started = time.monotonic()
    with pytest.raises(ImageError) as raised:
        open_store(raw.uri).read(name)
    assert raised.value.code == code
    assert time.monotonic() - started < 8  # bounded by patience and timeout


@pytest.mark.parametrize(
    "odd",
    [
        "<Code>ExpiredToken</Code>.jpg",
        "status code: 503 kind: Connect.jpg",
        "retries: 3 TimedOut hyper token credential.jpg",
        "Server returned non-2xx status code: 401 x: <Code>InvalidAccessKeyId</Code>.jpg",
        "NoSuchBucket&lt;Code&gt;.jpg",
    ],
)
def test_a_name_is_never_taken_for_a_word_of_the_store(raw, odd):
    raw.objects[odd] = BODY
    store = open_store(raw.uri)
    for answer, code in ((Answer(403, "AccessDenied"), "forbidden"), (Answer(404, "NoSuchKey"), "not_found")):
        raw.fault = always(answer)
        with pytest.raises(ImageError) as raised:
            store.read(odd)
        assert raised.value.code == code
    raw.fault = always(Answer(cut_at=5))
    with pytest.raises(ImageError, match="read_error"):
        store.read(odd)
    raw.fault = always(Answer(403, "ExpiredToken"))
    with pytest.raises(StoreUnavailable, match="ExpiredToken"):
        store.read(odd)


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
)
@pytest.mark.parametrize("status", [400, 403])
def test_refused_credentials_stop_the_run(raw, name, code, status):
    raw.fault = always(Answer(status, code))
    store = open_store(raw.uri)
    with pytest.raises(StoreUnavailable, match=code):
        store.read(name)
    with pytest.raises(StoreUnavailable, match=code):
        store.put(name, b"")
    with pytest.raises(UsageError, match=code):
        store.check()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, "SlowDown"),
        Answer(500, "InternalError"),
        Answer(429, "TooManyRequests"),
        Answer(cut_at=5000),
        Answer(0),
    ],
)
def test_a_passing_failure_is_not_seen(raw, name, answer):
    raw.fault = times(2, answer)
    assert open_store(raw.uri).read(name) == BODY


def test_a_body_cut_again_and_again_is_never_taken_for_whole(raw, name):
    """Each answer ends ten bytes after it begins; however the client goes on, it must not stop early."""
    raw.fault = always(Answer(cut_at=10))
    with pytest.raises(ImageError, match="read_error"):
        open_store(raw.uri).read(name)


def test_a_body_that_changes_between_two_halves_is_not_mixed(raw):
    """The connection ends in the middle; meanwhile somebody writes another picture of the same size."""
    other = bytes(reversed(BODY))
    answers = times(1, Answer(cut_at=50_000))

    def fault(method, key):
        answer = answers(method, key)
        if answer is None:
            raw.objects["a.jpg"] = other
        return answer

    raw.fault = fault
    assert open_store(raw.uri).read("a.jpg") == other
    raw.objects["a.jpg"] = BODY
    store = open_store(raw.uri)
    etag = store.head("a.jpg")
    answers = times(1, Answer(cut_at=50_000))
    with pytest.raises(ImageError, match="changed"):
        store.read("a.jpg", if_match="0" * 32)
    assert etag is not None


def test_too_large_reads_no_body(raw):
    raw.fault = always(Answer(cut_at=0))
    with pytest.raises(ImageError, match="too_large"):
        open_store(raw.uri).read("a.jpg", max_bytes=1000)


@pytest.mark.parametrize("apply", [False, True])
def test_a_write_whose_connection_broke_is_done_once_more(raw, apply):
    store = open_store(raw.uri)
    for n, how in enumerate(({"if_absent": True}, {}, {"if_match": store.head("a.jpg").etag})):
        name = "a.jpg" if "if_match" in how else f"new-{n}"
        raw.fault = times(1, Answer(0, apply=apply))
        etag = store.put(name, b"ours", **how)
        assert raw.objects[name] == b"ours"
        assert etag == store.head(name).etag
    raw.objects["theirs"] = b"theirs"
    raw.fault = times(1, Answer(0))
    with pytest.raises(AlreadyExists):
        store.put("theirs", b"ours", if_absent=True)


def test_a_write_applied_but_answered_500_is_ours(raw):
    raw.fault = times(1, Answer(500, "InternalError", apply=True))
    store = open_store(raw.uri)
    etag = store.put("lease", b"token-1", if_absent=True)
    assert store.fetch("lease") == (b"token-1", etag)
    raw.fault = times(1, Answer(500, "InternalError", apply=True))
    assert store.put("lease", b"token-2", if_match=etag) == store.head("lease").etag
    with pytest.raises(AlreadyExists):
        store.put("lease", b"token-3", if_absent=True)


def test_a_store_that_fails_to_list(raw):
    raw.objects = {f"{n:03d}": b"" for n in range(30)}
    raw.page_keys = 10
    store = open_store(raw.uri)
    raw.fault = times(2, Answer(503, "SlowDown"))
    assert [len(page) for page in store.list()] == [10, 10, 10]
    raw.fault = lambda _method, key: Answer(500, "InternalError") if key == "009" else None
    pages = store.list()
    assert len(next(pages)) == 10
    with pytest.raises(StoreUnavailable, match="500 InternalError"):
        next(pages)
    raw.fault = always(Answer(403, "AccessDenied"))
    with pytest.raises(UsageError, match="may not be listed"):
        next(store.list())
    raw.fault = always(Answer(404, "NoSuchBucket"))
    with pytest.raises(SourceError, match="no bucket"):
        store.check()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, "PermanentRedirect", "other"),
        (400, "ExpiredToken", "credentials"),
        (401, "", "credentials"),
        (403, "AccessDenied", "forbidden"),
        (403, "RequestTimeTooSkewed", "credentials"),
        (404, "NoSuchBucket", "no_bucket"),
        (404, "NoSuchKey", "not_found"),
        (408, "RequestTimeout", "timeout"),
        (409, "ConditionalRequestConflict", "server"),
        (412, "PreconditionFailed", "changed"),
        (429, "", "server"),
        (503, "SlowDown", "server"),
    ],
)
def test_answers_have_names(status, code, kind):
    assert from_answer(status, code).kind == kind
