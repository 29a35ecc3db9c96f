"""Videos: the request, the quote, the upstream body."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.catalog import ImagePrice, Kind, Model, VideoPrice, VideoRate
from proxy.core.errors import InvalidJsonError, InvalidParameterError, MissingPromptError
from proxy.core.money import Nanos
from proxy.core.video.price import VideoBilling, charge_by_usage, hold_for, nanos_per_kilotoken, quote, total_cost, video_tokens
from proxy.core.video.request import VideoCall, parse_video_call
from proxy.core.video.upstream import neutralised_prompt, upstream_body

PRICE = VideoPrice(VideoRate(silent=Nanos(8_000), audio=Nanos(16_000)), flex_permille=500)  # ¥8 and ¥16 per million, flex half
DEAR_1080P = VideoPrice(
    VideoRate(silent=Nanos(46_000), audio=Nanos(46_000)),
    by_resolution={"1080p": VideoRate(silent=Nanos(51_000), audio=Nanos(51_000))},
)


def model(price: Any = PRICE, resolutions: tuple[str, ...] = ()) -> Model:
    return Model(id="v", kind=Kind.VIDEO, upstream="ark", upstream_model="up", price=price, resolutions=resolutions)


def parse(**body: Any) -> VideoCall:
    return parse_video_call({"prompt": "a"} | body, model())


def test_a_prompt_alone_is_five_silent_seconds_at_720p() -> None:
    assert parse() == VideoCall(
        prompt="a",
        task_type="text_to_video",
        image_url=None,
        resolution="720p",
        duration_seconds=5,
        generate_audio=False,
        seed=None,
        watermark=False,
        service_tier="default",
    )


@pytest.mark.parametrize(
    ("task_type", "explicit", "audio"),
    [
        ("text_to_video", None, False),
        ("image_to_video", None, False),
        ("text_to_audio_video", None, True),
        ("image_to_audio_video", None, True),
        ("text_to_video", True, True),
        ("text_to_audio_video", False, False),
    ],
)
def test_sound_is_what_is_asked_for_else_what_the_task_says(task_type: str, explicit: bool | None, audio: bool) -> None:
    call = parse(task_type=task_type, generate_audio=explicit, image_url="https://example.com/a.jpg")

    assert call.generate_audio is audio
    assert upstream_body(call, "m", "s")["generate_audio"] is audio


@pytest.mark.parametrize("task_type", ["image_to_video", "image_to_audio_video"])
@pytest.mark.parametrize("image_url", [None, "", "a.jpg", "ftp://a.b/c", 5])
def test_an_image_task_needs_an_image_url(task_type: str, image_url: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse(task_type=task_type, image_url=image_url)

    assert refused.value.param == "image_url"


@pytest.mark.parametrize("image_url", [5, {}, ["https://a.b/c.png"], True])
def test_an_image_url_of_another_type_is_refused_also_where_it_is_ignored(image_url: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse(task_type="text_to_video", image_url=image_url)

    assert refused.value.param == "image_url"


@pytest.mark.parametrize("task_type", ["text_to_video", "text_to_audio_video"])
def test_a_text_task_ignores_an_image_url(task_type: str) -> None:
    assert parse(task_type=task_type, image_url="nonsense").image_url is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_type", "video_to_video"),
        ("task_type", 1),
        ("resolution", "4k"),
        ("resolution", "720P"),
        ("resolution", 720),
        ("duration", 3),
        ("duration", 13),
        ("duration", -1),
        ("duration", 0),
        ("duration", "5"),
        ("duration", 5.0),
        ("duration", True),
        ("generate_audio", "true"),
        ("generate_audio", 1),
        ("seed", -2),
        ("seed", 2**32),
        ("seed", "1"),
        ("watermark", 0),
        ("service_tier", "auto"),
        ("service_tier", "Flex"),
        ("prompt", ["a"]),
        ("Duration", 5),
        ("Resolution", "720p"),
        ("Service_Tier", "flex"),
        ("Generate_Audio", True),
        ("MODEL", "v"),
    ],
)
def test_a_bad_field_is_refused_under_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse(**{field: value})

    assert refused.value.param == field
    assert field in refused.value.message


def test_a_missing_prompt_and_a_body_that_is_none_have_their_own_codes() -> None:
    with pytest.raises(MissingPromptError):
        parse_video_call({"prompt": " "}, model())
    with pytest.raises(InvalidJsonError):
        parse_video_call([], model())


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1])
def test_a_seed_goes_up_from_end_to_end_of_its_range(seed: int) -> None:
    assert upstream_body(parse(seed=seed), "m", "s")["seed"] == seed


@pytest.mark.parametrize("duration", range(4, 13))
def test_each_published_duration_goes_up(duration: int) -> None:
    assert upstream_body(parse(duration=duration), "m", "s")["duration"] == duration


def test_flex_is_for_models_that_have_a_price_for_it() -> None:
    with pytest.raises(InvalidParameterError, match="flex is not available") as refused:
        parse_video_call({"prompt": "a", "service_tier": "flex"}, model(DEAR_1080P))

    assert refused.value.param == "service_tier"
    with pytest.raises(ValueError, match="without a flex price"):
        quote(VideoCall("a", service_tier="flex"), DEAR_1080P)


@pytest.mark.parametrize(
    ("resolution", "offered", "taken"),
    [
        ("1080p", ("480p", "720p"), False),
        ("720p", ("480p", "720p"), True),
        ("adaptive", ("480p", "720p"), True),
        ("adaptive", ("1080p",), False),  # adaptive is rendered at 720p
        ("1080p", (), True),
    ],
)
def test_a_resolution_is_one_that_the_model_renders(resolution: str, offered: tuple[str, ...], taken: bool) -> None:
    body = {"prompt": "a", "resolution": resolution}
    if taken:
        assert parse_video_call(body, model(resolutions=offered)).resolution == resolution
        return

    with pytest.raises(InvalidParameterError) as refused:
        parse_video_call(body, model(resolutions=offered))

    assert refused.value.param == "resolution"


def test_a_model_that_makes_no_videos_is_a_bug() -> None:
    with pytest.raises(TypeError):
        parse_video_call({"prompt": "a"}, model(ImagePrice(Nanos(1))))


@pytest.mark.parametrize(
    ("asked", "tokens", "cost"),
    [
        # 1280 x 720 x 24 x 5 / 1024 = 108,000 tokens
        ({}, 108_000, "0.8640"),  # x 8 / 1,000,000
        ({"generate_audio": True}, 108_000, "1.7280"),  # x 16
        ({"service_tier": "flex"}, 108_000, "0.4320"),  # x 8 x 0.5
        ({"service_tier": "flex", "generate_audio": True}, 108_000, "0.8640"),  # x 16 x 0.5
        ({"resolution": "adaptive"}, 108_000, "0.8640"),  # at 720p
        # 1920 x 1080 x 24 x 5 / 1024 = 243,000
        ({"resolution": "1080p"}, 243_000, "1.9440"),
        ({"resolution": "1080p", "generate_audio": True}, 243_000, "3.8880"),
        # 21,600 a second x 12 = 259,200
        ({"duration": 12}, 259_200, "2.0736"),
        ({"duration": 4}, 86_400, "0.6912"),
        # 854 x 480 x 24 x 5 / 1024 = 48,037.5; x 8 = 384,300
        ({"resolution": "480p"}, 48_037, "0.3843"),
        ({"resolution": "480p", "duration": 4}, 38_430, "0.30744"),
    ],
)
def test_the_quote_is_the_published_formula(asked: dict[str, Any], tokens: int, cost: str) -> None:
    call = parse(**asked)

    assert video_tokens(call) == tokens
    assert total_cost(quote(call, PRICE)) == cost
    assert hold_for(call, PRICE, VideoBilling.FORMULA) == quote(call, PRICE)


def test_a_resolution_may_have_a_price_of_its_own() -> None:
    # 243,000 x 51 = 12.393; 108,000 x 46 = 4.968
    assert total_cost(quote(VideoCall("a", resolution="1080p"), DEAR_1080P)) == "12.3930"
    assert total_cost(quote(VideoCall("a"), DEAR_1080P)) == "4.9680"


def test_what_does_not_divide_is_dropped_in_the_customers_favour() -> None:
    price = VideoPrice(VideoRate(silent=Nanos(1), audio=Nanos(1)), flex_permille=333)

    # 48,037.5 tokens x 1 nano; x 0.333 = 15,996.4875
    assert quote(VideoCall("a", resolution="480p"), price) == 48_037
    assert quote(VideoCall("a", resolution="480p", service_tier="flex"), price) == 15_996


CALLS = st.builds(
    VideoCall,
    prompt=st.just("a"),
    resolution=st.sampled_from(["480p", "720p", "1080p", "adaptive"]),
    duration_seconds=st.integers(4, 12),
    generate_audio=st.booleans(),
    service_tier=st.sampled_from(["default", "flex"]),
)
PRICES = st.builds(
    lambda silent, audio, flex: VideoPrice(VideoRate(Nanos(silent), Nanos(audio)), flex_permille=flex),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 1000),
)


@given(CALLS, PRICES)
def test_a_hold_for_reported_tokens_covers_what_ark_reports(call: VideoCall, price: VideoPrice) -> None:
    # the largest frames in Ark's tables, and one frame more than the formula
    width, height = {"480p": (864, 496), "1080p": (1920, 1088)}.get(call.resolution, (1504, 640))
    reported = width * height * (24 * call.duration_seconds + 1) // 1024

    hold = hold_for(call, price, VideoBilling.USAGE)

    assert hold >= charge_by_usage(reported, nanos_per_kilotoken(call, price))
    assert hold >= quote(call, price)
    assert hold <= quote(call, price) * 11 // 10 + 10**6


def test_reported_tokens_are_charged_as_reported() -> None:
    # 108,900 x 8 / 1,000,000 = 0.8712; flex half of it
    assert total_cost(charge_by_usage(108_900, nanos_per_kilotoken(VideoCall("a"), PRICE))) == "0.8712"
    assert total_cost(charge_by_usage(108_900, nanos_per_kilotoken(VideoCall("a", service_tier="flex"), PRICE))) == "0.4356"


def test_a_text_body_is_complete() -> None:
    assert upstream_body(parse(prompt="日落"), "up-260128", "c0ffee") == {
        "model": "up-260128",
        "content": [{"type": "text", "text": "日落"}],
        "resolution": "720p",
        "ratio": "16:9",
        "duration": 5,
        "generate_audio": False,
        "watermark": False,
        "return_last_frame": True,
        "safety_identifier": "c0ffee",
    }


def test_an_image_body_starts_from_the_picture_and_keeps_its_ratio() -> None:
    call = parse(task_type="image_to_audio_video", image_url="https://example.com/portrait.jpg", watermark=True, resolution="1080p")

    body = upstream_body(call, "m", "s")

    assert body["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://example.com/portrait.jpg"}, "role": "first_frame"},
    ]
    assert (body["ratio"], body["resolution"], body["watermark"]) == ("adaptive", "1080p", True)


def test_adaptive_goes_up_as_a_ratio() -> None:
    body = upstream_body(parse(resolution="adaptive"), "m", "s")

    assert body["ratio"] == "adaptive"
    assert "resolution" not in body


def test_flex_goes_up_with_its_expiry_and_the_default_tier_with_neither() -> None:
    flex = upstream_body(parse(service_tier="flex"), "m", "s")

    assert (flex["service_tier"], flex["execution_expires_after"]) == ("flex", 86_400)
    assert not {"service_tier", "execution_expires_after"} & upstream_body(parse(), "m", "s").keys()


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("一只猫 --dur 12 --rs 1080p", "一只猫 —dur 12 —rs 1080p"),
        ("a cat--rs 1080p", "a cat—rs 1080p"),
        ("--duration 12", "—duration 12"),
        ("a ---- b", "a — b"),
        ("a －－dur 12", "a —dur 12"),
        ("a -－dur 12", "a —dur 12"),
        ("a -\u200b-dur 12", "a —dur 12"),
        ("a slow-motion shot - wide, 16:9", "a slow-motion shot - wide, 16:9"),
        ("日落——海浪", "日落——海浪"),
        ("the end-", "the end-"),
    ],
)
def test_a_prompt_carries_no_flags_and_stays_readable(written: str, sent: str) -> None:
    assert neutralised_prompt(written) == sent


@pytest.mark.parametrize(
    "invisible",
    # one or both ends of each range of Unicode's Default_Ignorable_Code_Point
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180e\u180f\u200b\u200e\u200f\u202a\u202e\u2060\u2061\u2066\u206f\u3164\ufe00\ufe0f\ufeff"
    "\uffa0\ufff0\ufff8\U0001bca0\U0001bca3\U0001d173\U0001d17a\U000e0000\U000e0020\U000e0100\U000e0fff\x00\x1f\x7f",
    ids=ascii,
)
def test_what_cannot_be_seen_hides_no_flag(invisible: str) -> None:
    assert neutralised_prompt(f"cat -{invisible}{invisible}-dur 12") == "cat —dur 12"


@given(st.text(alphabet="-－﹣\u200b\u00ad a猫"))
def test_no_flag_survives_even_unicode_normalisation(prompt: str) -> None:
    content = upstream_body(VideoCall(prompt), "m", "s")["content"]

    assert isinstance(content, list)
    normalised = unicodedata.normalize("NFKC", content[0]["text"])
    assert "--" not in "".join(letter for letter in normalised if unicodedata.category(letter) != "Cf")
