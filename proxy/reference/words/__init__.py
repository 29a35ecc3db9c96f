"""The words of document and page, a file a language, with the same keys in both."""

import tomllib
from importlib.resources import files
from typing import Any

LANGUAGES = ("zh", "en")
"""The first is the page's default."""
Words = dict[str, Any]


def words_of(language: str) -> Words:
    """Return the words of one of `LANGUAGES`: tables of sentences by their keys."""
    return tomllib.loads(files(__name__).joinpath(f"{language}.toml").read_text(encoding="utf-8"))
