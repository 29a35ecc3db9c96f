"""The URL of the store, and its password, which nothing shows."""

from pathlib import Path
from typing import Any

import pytest

from proxy.cli.config_view import describe
from proxy.config import ConfigError, load
from proxy.config.changes import changes
from proxy.config.store_url import parse_store_url

BASE = Path("/etc/llm-proxy")
FILE = """
[store]
url = "postgresql://gateway@db.internal/books"
{password}
[upstreams.ark]
base_url = "https://ark.example/api/v3"
api_key = "env:ARK_API_KEY"
[[models]]
id = "m"
kind = "chat"
context_tokens = 100
output_tokens_max = 10
price = {{ input = "1", output = "1" }}
"""
ENV = {"ARK_API_KEY": "canary-of-ark", "DB_PASSWORD": "hunter2-canary"}


def write(directory: Path, password: str = 'password = "env:DB_PASSWORD"') -> Path:
    path = directory / "config.toml"
    path.write_text(FILE.format(password=password))
    return path


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("sqlite:books.db", "sqlite:/etc/llm-proxy/books.db"),
        ("sqlite:/var/books.db", "sqlite:/var/books.db"),
        ("postgresql://db/books", "postgresql://db/books"),
        ("postgres://gateway@db:5432/books", "postgresql://gateway@db:5432/books"),
        ("postgresql://gateway@[::1]:5433/books", "postgresql://gateway@[::1]:5433/books"),
        (
            "postgresql://a:5432,b:5432/books?target_session_attrs=primary",
            "postgresql://a:5432,b:5432/books?target_session_attrs=primary",
        ),
        ("postgresql://gateway@/books?host=/run/postgresql", "postgresql://gateway@/books?host=/run/postgresql"),
        (
            "postgresql://db/books?sslmode=verify-full&sslrootcert=ca.pem",
            "postgresql://db/books?sslmode=verify-full&sslrootcert=/etc/llm-proxy/ca.pem",
        ),
    ],
)
def test_paths_become_absolute_and_the_rest_stays(text: str, url: str) -> None:
    assert parse_store_url(text, BASE) == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("books.db", 'must be "sqlite:PATH" or "postgresql://USER@HOST/DATABASE"'),
        ("mysql://db/books", "the store 'mysql' is not known"),
        ("sqlite:", "the path of a file"),
        ("sqlite::memory:", "the path of a file"),
        ("postgresql:books", "in printable ASCII characters"),
        ("postgresql://db", "with the name of a database"),
        ("postgresql://db/", "with the name of a database"),
        ("postgresql://db/a/b", "nothing after it but parameters"),
        ("postgresql://db/books#x", "nothing after it but parameters"),
        ("postgresql://@db/books", "a name stands before the @"),
        ("postgresql://db:99999/books", "a port is a number up to 65535"),
        ("postgresql://d b/books", "in printable ASCII characters"),
        ("postgresql://[::1/books", "brackets are for an IPv6 address"),
        ("postgresql://db/books?sslmode", "parameters are ?NAME=VALUE"),
        ("postgresql://db/books?options=-c", "has parameter options, which is not known here"),
        ("postgresql://gateway:hunter2@db/books", "must not carry a password"),
        ("postgresql://gateway:@db/books", "must not carry a password"),
        ("postgresql://db/books?password=hunter2", "must not carry a password"),
        ("postgresql://gateway:hunter2/@db/books", "nothing after it but parameters"),
        ("postgresql://db/books?hunter2SecretOfTheDatabase9=x", "a parameter that is not shown"),
    ],
)
def test_a_fault_is_named_and_nothing_is_quoted_that_may_be_a_password(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_store_url(text, BASE)

    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def texts_of(value: Any) -> str:
    return f"{value!r} {value}"


def test_the_password_is_read_from_where_it_stands_and_nothing_shows_it(tmp_path: Path) -> None:
    config = load(write(tmp_path), ENV)

    assert config.store.password.reveal() == "hunter2-canary"
    assert config.store.path is None
    assert config.admin.listen is not None
    assert config.admin.listen.path == tmp_path / "admin.sock"
    assert describe(config)["store"] == {"url": "postgresql://gateway@db.internal/books", "password": "set"}
    assert "canary" not in texts_of(config) + texts_of(describe(config))


def test_a_changed_password_needs_a_restart_and_is_not_shown(tmp_path: Path) -> None:
    before, after = load(write(tmp_path), ENV), load(write(tmp_path), ENV | {"DB_PASSWORD": "another-canary"})

    (change,) = changes(before, after)

    assert (change.view(), change.is_live) == ({"key": "store.password", "before": "set", "after": "changed"}, False)


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ('password = "hunter2"', "store.password: a secret does not stand in this file"),
        ('password = "env:NO_SUCH"', "store.password: the environment variable NO_SUCH is not set"),
        ('password = "file:missing"', "missing cannot be read"),
    ],
)
def test_a_password_that_leads_nowhere_is_a_fault(tmp_path: Path, password: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, password), ENV)

    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_command_that_calls_no_upstream_reads_the_password_all_the_same(tmp_path: Path) -> None:
    config = load(write(tmp_path), {"DB_PASSWORD": "hunter2-canary"}, require_secrets=False)

    assert config.store.password.reveal() == "hunter2-canary"
