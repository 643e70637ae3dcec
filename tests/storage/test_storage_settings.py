"""Settings: what the environment decides, and what it must not hold."""

from pathlib import Path

import pytest

from tagger.errors import UsageError
from tagger.settings import environment_fingerprint, load_settings, usable_cpus


def test_defaults():
    settings = load_settings({})
    assert settings.cache_dir == Path("~/.cache/tagger").expanduser()
    assert settings.cpus == usable_cpus() >= 1
    assert (settings.patience_s, settings.request_timeout_s) == (60.0, 30.0)
    assert settings.ray_address is None
    assert settings.object_store_bytes is None
    assert not settings.allow_http


def test_every_variable():
    settings = load_settings(
        {
            "TAGGER_CACHE": "/c",
            "TAGGER_CPUS": "3",
            "TAGGER_PATIENCE_S": "2.5",
            "TAGGER_REQUEST_TIMEOUT_S": "7",
            "TAGGER_OBJECT_STORE_BYTES": "100000000",
            "RAY_ADDRESS": "10.0.0.1:6379",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "hush",
            "AWS_DEFAULT_REGION": "eu-west-3",
            "AZURE_ENDPOINT": "http://127.0.0.1:1",
        }
    )
    assert settings.cache_dir == Path("/c")
    assert (settings.cpus, settings.patience_s, settings.request_timeout_s) == (3, 2.5, 7.0)
    assert settings.object_store_bytes == 100_000_000
    assert settings.ray_address == "10.0.0.1:6379"
    assert settings.ray_token_is_set
    assert "hush" not in repr(settings)
    assert settings.aws_region == "eu-west-3"
    assert settings.allow_http
    assert load_settings({"XDG_CACHE_HOME": "/x"}).cache_dir == Path("/x/tagger")
    assert load_settings({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}).aws_region == "a"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TAGGER_CPUS", "0", "TAGGER_CPUS must be at least 1, got 0"),
        ("TAGGER_CPUS", "two", "TAGGER_CPUS must be a whole number, got 'two'"),
        ("TAGGER_OBJECT_STORE_BYTES", "8", "must be at least 80000000, got 8"),
        ("TAGGER_PATIENCE_S", "-1", "TAGGER_PATIENCE_S must be at least 0, got -1"),
        ("TAGGER_PATIENCE_S", "nan", "must be at least 0, got nan"),
        ("TAGGER_REQUEST_TIMEOUT_S", "0.5", r"must be at least 1, got 0\.5"),
        ("TAGGER_REQUEST_TIMEOUT_S", "soon", "must be a number of seconds, got 'soon'"),
    ],
)
def test_what_they_must_not_hold(name, value, message):
    with pytest.raises(UsageError, match=message):
        load_settings({name: value})


def test_a_fingerprint_changes_with_the_credentials_and_shows_none():
    one = environment_fingerprint({"AWS_SECRET_ACCESS_KEY": "hush", "PATH": "/bin"})
    assert one == environment_fingerprint({"AWS_SECRET_ACCESS_KEY": "hush", "PATH": "/usr/bin"})
    assert one != environment_fingerprint({"AWS_SECRET_ACCESS_KEY": "hush!"})
    assert "hush" not in one
