"""A model as `GET /models` lists it."""

from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind, Model, VideoPrice, VideoRate
from proxy.core.listing import listed
from proxy.core.money import Nanos

CHEAP = ChatTier(32_768, Nanos(3_200), Nanos(16_000), Nanos(640))
DEAR = ChatTier(None, Nanos(4_800), Nanos(24_000), Nanos(4_800))
CHAT = Model("m", Kind.CHAT, "ark", "ep-secret", ChatPrice((CHEAP, DEAR)), context_tokens=262_144, answer_tokens_max=131_072)
FIRST = {"prompt": "0.0000032", "completion": "0.000016", "input_cache_read": "0.00000064"}


def test_a_chat_model_has_its_context_its_longest_answer_and_prices_of_a_token() -> None:
    it = listed(CHAT)

    assert (it["kind"], it["context_length"], it["max_output_tokens"]) == ("chat", 262_144, 131_072)
    assert it["top_provider"] == {"context_length": 262_144, "max_completion_tokens": 131_072}
    assert it["pricing"] == {
        "currency": "CNY",
        **FIRST,
        "tiers": [
            {"up_to_tokens": 32_768, **FIRST},
            {"up_to_tokens": None, "prompt": "0.0000048", "completion": "0.000024", "input_cache_read": "0.0000048"},
        ],
    }
    assert "ep-secret" not in str(it)


def test_what_is_not_known_is_null_or_what_is_held() -> None:
    it = listed(Model("m", Kind.CHAT, "ark", "ep", ChatPrice((DEAR,)), upstream_context_tokens=262_144))

    assert (it["context_length"], it["max_output_tokens"]) == (None, 4_096)
    assert it["pricing"] == {"currency": "CNY", "prompt": "0.0000048", "completion": "0.000024", "input_cache_read": "0.0000048"}


def test_a_picture_and_a_video_have_prices_of_their_own() -> None:
    picture = listed(Model("p", Kind.IMAGE, "ark", "ep", ImagePrice(Nanos(180_000_000))))
    film = listed(
        Model(
            "v",
            Kind.VIDEO,
            "ark",
            "ep",
            VideoPrice(VideoRate(Nanos(8_000), Nanos(16_000)), {"1080p": VideoRate(Nanos(51_000), Nanos(51_000))}, 500),
        )
    )

    assert picture["pricing"] == {"currency": "CNY", "unit": "image", "image": "0.18"}
    assert picture["architecture"]["modality"] == "text+image->image"
    assert film["pricing"] == {
        "currency": "CNY",
        "unit": "million video tokens",
        "silent": "8",
        "audio": "16",
        "by_resolution": {"1080p": {"silent": "51", "audio": "51"}},
        "flex_factor": "0.5",
    }
    assert "context_length" not in film
