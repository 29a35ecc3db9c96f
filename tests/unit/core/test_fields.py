"""The typed readers of fields: accepted values, defaults, and refusals with the name of the field."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import fields
from proxy.core.errors import InvalidJsonError, InvalidParameterError, MissingPromptError

PUBLISHED = frozenset({"model", "prompt", "n"})


@pytest.mark.parametrize("value", ["5", 5.0, True, [5], {}, 0, 13, -(10**30), float("inf")])
def test_an_integer_is_an_integer_in_its_range_and_nothing_else(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="'duration' must be an integer from 1 to 12") as refused:
        fields.optional_integer({"duration": value}, "duration", 1, 12)

    assert refused.value.param == "duration"


@pytest.mark.parametrize("value", [1, 7, 12])
def test_both_ends_of_a_range_are_inside(value: int) -> None:
    assert fields.optional_integer({"n": value}, "n", 1, 12) == value


@pytest.mark.parametrize("body", [{}, {"x": None}])
def test_what_is_absent_or_null_takes_its_default(body: dict[str, object]) -> None:
    assert fields.optional_integer(body, "x", 1, 4) is None
    assert fields.optional_boolean(body, "x") is None
    assert fields.optional_text(body, "x", 10) is None
    assert fields.one_of(body, "x", ("a", "b"), "b") == "b"


@pytest.mark.parametrize("value", [0, 1, "true", "", [], 1.0])
def test_a_boolean_is_true_or_false_and_nothing_else(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="'watermark' must be true or false") as refused:
        fields.optional_boolean({"watermark": value}, "watermark")

    assert refused.value.param == "watermark"


@pytest.mark.parametrize("value", ["", "C", "A", 1, ["a"], True])
def test_a_choice_is_one_of_those_named_in_the_error(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="'tier' must be one of a, b") as refused:
        fields.one_of({"tier": value}, "tier", ("a", "b"), "a")

    assert refused.value.param == "tier"


def test_text_is_bounded_and_a_blank_one_is_none() -> None:
    assert fields.optional_text({"style": " anime "}, "style", 10) == "anime"
    assert fields.optional_text({"style": " \n"}, "style", 10) is None

    with pytest.raises(InvalidParameterError, match="at most 10 characters"):
        fields.optional_text({"style": "x" * 11}, "style", 10)


def test_a_required_text_says_when_it_is_required() -> None:
    with pytest.raises(InvalidParameterError, match="'image_url' is required when it rains") as refused:
        fields.required_text({"image_url": " "}, "image_url", 10, "when it rains")

    assert refused.value.param == "image_url"


@pytest.mark.parametrize("body", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": " \t\n　"}])
def test_a_prompt_that_is_absent_or_blank_is_missing(body: dict[str, object]) -> None:
    with pytest.raises(MissingPromptError) as refused:
        fields.required_prompt(body)

    assert (refused.value.code, refused.value.param) == ("MISSING_PROMPT", "prompt")


@pytest.mark.parametrize("value", [5, ["a"], {"text": "a"}, True, "x" * 10_001])
def test_a_prompt_of_another_type_or_too_long_is_invalid(value: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        fields.required_prompt({"prompt": value})

    assert refused.value.param == "prompt"


def test_a_prompt_is_kept_as_it_was_sent() -> None:
    assert fields.required_prompt({"prompt": " 一只猫\n"}) == " 一只猫\n"


@pytest.mark.parametrize("key", ["N", "Model", "PROMPT"])
def test_a_published_key_in_other_letters_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"did you mean '{key.lower()}'") as refused:
        fields.checked_body({"prompt": "a", key: 1}, PUBLISHED)

    assert refused.value.param == key


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidJsonError):
        fields.checked_body(body, PUBLISHED)


def test_the_model_has_a_default_and_a_type() -> None:
    assert fields.model_id({}, "usual") == "usual"
    assert fields.model_id({"model": None}, "usual") == "usual"
    assert fields.model_id({"model": "other"}, "usual") == "other"

    with pytest.raises(InvalidParameterError, match="'model' must be a string"):
        fields.model_id({"model": 5}, "usual")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/photo.jpg",
        "http://10.0.0.1:8080/a?b=c",
        "https://example.com/图片.png",
        "https://[2001:db8::1]/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
    ],
)
def test_an_image_url_is_taken_as_it_is(url: str) -> None:
    assert fields.required_image_url({"image_url": url}, "image_url", "") == url


def test_the_header_of_a_data_url_is_lowered_and_its_payload_is_not() -> None:
    url = "data:image/PNG;base64,iVBORw0KGgo="

    assert fields.required_image_url({"image_url": url}, "image_url", "") == "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photo.jpg",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "https://",
        "https:///a.png",
        "https://[::1/a.png",
        "https://example.com:99999/a.png",
        "https://exa mple.com/a.png",
        "https://example.com/a\n.png",
        "https:\\\\example.com\\a.png",
        "data:image/png;base64,",
        "data:text/html;base64,aGk=",
        "data:image/png,iVBOR",
        "data:image/png;base64,图",
        "javascript:alert(1)",
        "https://example.com/" + "a" * 8_192,
        5,
        {"url": "https://example.com/a.png"},
    ],
)
def test_anything_else_is_no_image_url(url: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        fields.required_image_url({"image_url": url}, "image_url", "")

    assert refused.value.param == "image_url"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_no_value_gets_past_a_reader_with_another_type(value: Any) -> None:
    taken = [
        _taken(lambda: fields.optional_integer({"x": value}, "x", 1, 4)),
        _taken(lambda: fields.optional_boolean({"x": value}, "x")),
        _taken(lambda: fields.optional_text({"x": value}, "x", 8)),
    ]

    assert [type(one) for one in taken if one is not None] in ([], [type(value)])


def _taken(read: Callable[[], object]) -> object:
    try:
        return read()
    except InvalidParameterError:
        return None
