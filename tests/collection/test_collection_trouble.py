import pytest

from tagger.collection.trouble import is_passing, store_trouble
from tagger.errors import ImageError, RunError, StoreUnavailable, TakenOver


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (
            "Generic LocalFileSystem error: No space left on device (os error 28)",
            RunError,
            "no space left at",
        ),
        ("status: 507 Insufficient Storage: <Error>key</Error>", RunError, "no space left at"),
        ("Disk quota exceeded (os error 122)", RunError, "no space left at"),
        ("status: 403 Forbidden <Code>AccessDenied</Code>", StoreUnavailable, "refuses"),
        ("<Code>ExpiredToken</Code> The provided token has expired", StoreUnavailable, "refuses"),
        ("error sending request: operation timed out", StoreUnavailable, "does not serve"),
        ("Failed to commit transaction: Concurrent transaction failed.", StoreUnavailable, "does not serve"),
    ],
)
def test_what_the_store_said_becomes_a_sentence_without_its_text(text, kind, sentence):
    trouble = store_trouble(OSError(text + " AKIAEXAMPLE"), "s3://b/c")
    assert isinstance(trouble, kind)
    assert sentence in str(trouble)
    assert "s3://b/c" in str(trouble)
    assert "AKIA" not in str(trouble)
    assert trouble.exit_code == 1


def test_errors_of_ours_stay_what_they_are():
    error = TakenOver("x")
    assert store_trouble(error, "s3://b") is error


def test_only_an_unreachable_store_is_worth_another_try():
    assert is_passing(StoreUnavailable("x"))
    assert not is_passing(RunError("x"))
    assert not is_passing(store_trouble(OSError("<Code>AccessDenied</Code>"), "s3://b"))
    assert not is_passing(ImageError("corrupt", "x"))
