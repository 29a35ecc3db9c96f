"""Reader of the `[[models]]` tables into a `Catalog`: prices become nano-yuan, and invalid keys and values are refused."""

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from types import MappingProxyType
from typing import TypeVar

from proxy.config.quoting import masked, told_key
from proxy.config.tables import (
    Amount,
    ChatPriceTable,
    ChatTierTable,
    Faults,
    ImagePriceTable,
    ModelTable,
    RouteTable,
    VideoPriceTable,
    VideoRateTable,
    join,
    read_table,
)
from proxy.core.catalog import (
    Catalog,
    ChatPrice,
    ChatTier,
    Dialect,
    ImagePrice,
    Kind,
    Model,
    Price,
    Route,
    VideoPrice,
    VideoRate,
)
from proxy.core.money import parse_price, parse_token_price

V = TypeVar("V")
Upstreams = Mapping[str, tuple[Dialect, bool]]
"""Upstream → its dialect, and whether usage is asked for."""

_CHAT_KEYS = (
    "context_tokens",
    "upstream_context_tokens",
    "output_tokens_max",
    "answer_tokens_max",
    "reasoning_tokens_max",
    "image_tokens",
    "bytes_per_token",
    "request_defaults",
)
_KEYS_OF_ONE_KIND = {**dict.fromkeys(_CHAT_KEYS, "chat"), "resolutions": "video"}
_PRICE_KEYS = {
    "chat": {"input", "output", "cached_input", "tiers"},
    "image": {"image"},
    "video": {"silent", "audio", "flex", "by_resolution"},
}
_PRICE_FORMS = {
    "chat": "{ input, output, cached_input } or { tiers = [...] }",
    "image": "{ image }",
    "video": "{ silent, audio, flex, by_resolution }",
}
_NEVER_DEFAULTS = ("model", "messages", "stream", "stream_options")
_NOT_PLAIN = "must have no blanks and no control characters"
_RESERVED_IDS = ("public",)
"""`GET /models/public` is a separate route."""


def read_catalog(tables: object, upstreams: Upstreams, context_tokens_assumed: int, faults: Faults) -> Catalog:
    """Return the models by id, in the file's order. Faults are added; the catalog is then unusable.

    Args: context_tokens_assumed: what a model whose context is not known is held at.
    """
    models: dict[str, Model] = {}
    if not isinstance(tables, list) or not tables:
        faults.add("models", "at least one [[models]] table is needed")
        return models
    for index, table in enumerate(tables):
        key = _label(index, table)
        model = _read_model(table, key, upstreams, context_tokens_assumed, faults)
        if model is None:
            continue
        if model.id in models:
            faults.add(f"{key}.id", "another model has this id")
        models[model.id] = model
    return MappingProxyType(models)


def _label(index: int, table: object) -> str:
    model_id = table.get("id") if isinstance(table, Mapping) else None
    return f'models[{index}] "{model_id}"' if isinstance(model_id, str) and model_id.isprintable() else f"models[{index}]"


def _read_model(value: object, key: str, upstreams: Upstreams, context_tokens_assumed: int, faults: Faults) -> Model | None:
    known = len(faults)
    table = read_table(ModelTable, value, key, faults)
    if table is None or not isinstance(value, Mapping):
        return None
    _check_ids(table, key, faults)
    for name in value:
        if _KEYS_OF_ONE_KIND.get(name, table.kind) != table.kind:
            faults.add(join(key, name), f"has no meaning for a model of kind {table.kind}")
    if 0 < table.upstream_context_tokens < table.context_tokens:
        faults.add(join(key, "upstream_context_tokens"), "must not be under context_tokens: no longer prompt could be sold")
    _check_defaults(table.request_defaults, join(key, "request_defaults"), faults)
    routes = _read_routes(table, key, upstreams, faults)
    price = _read_price(table, join(key, "price"), faults)
    if price is None or len(faults) > known:
        return None
    first = routes[0]
    return Model(
        id=table.id,
        kind=Kind(table.kind),
        upstream=first.upstream,
        upstream_model=first.model,
        price=price,
        owned_by=table.owned_by,
        description=table.description,
        created=table.created,
        enabled=table.enabled,
        context_tokens=table.context_tokens,
        upstream_context_tokens=table.upstream_context_tokens,
        context_tokens_assumed=context_tokens_assumed,
        output_tokens_max=table.output_tokens_max,
        answer_tokens_max=table.answer_tokens_max,
        reasoning_tokens_max=table.reasoning_tokens_max,
        image_tokens=table.image_tokens,
        bytes_per_token=table.bytes_per_token,
        request_defaults=MappingProxyType(table.request_defaults),
        resolutions=table.resolutions,
        routes=routes,
        dialect=first.dialect,
        asks_usage=first.asks_usage,
    )


def _is_plain_id(text: str) -> bool:
    return text.isprintable() and not any(char.isspace() for char in text)


def _check_ids(table: ModelTable, key: str, faults: Faults) -> None:
    for name, text in (("id", table.id), ("upstream_model", table.upstream_model or "")):
        if not _is_plain_id(text):
            faults.add(join(key, name), _NOT_PLAIN)
    if table.id in _RESERVED_IDS or table.id.startswith("/") or table.id.endswith("/"):
        faults.add(join(key, "id"), 'must not be "public" and not begin or end with a slash: GET /models/{id} could not tell it')


def _read_routes(table: ModelTable, key: str, upstreams: Upstreams, faults: Faults) -> tuple[Route, ...]:
    """Return the model's routes; ``upstream`` and ``upstream_model`` are one."""
    if table.routes is None:
        found = [RouteTable(upstream=_upstream_of(table, key, upstreams, faults), model=table.upstream_model)]
    else:
        for name in ("upstream", "upstream_model"):
            if getattr(table, name) is not None:
                faults.add(join(key, name), "stands beside routes: each route names its own")
        tables = [read_table(RouteTable, value, f"{join(key, 'routes')}[{at}]", faults) for at, value in enumerate(table.routes)]
        found = [route for route in tables if route is not None]
        if len(found) == len(tables):
            _check_routes(table, found, join(key, "routes"), upstreams, faults)
    routes = []
    for at, route in enumerate(found):
        dialect, asks_usage = upstreams.get(route.upstream, ("ark", True))
        if dialect != "ark" and table.kind != "chat":
            where = join(key, "upstream") if table.routes is None else f"{join(key, 'routes')}[{at}].upstream"
            faults.add(where, f'{route.upstream} has dialect = "{dialect}", and makes no {table.kind}s')
        routes.append(Route(route.upstream, route.model or table.id, route.weight, route.tier, dialect, asks_usage))
    return tuple(routes)


def _check_routes(table: ModelTable, routes: list[RouteTable], key: str, upstreams: Upstreams, faults: Faults) -> None:
    if not routes:
        faults.add(key, "must be an array of at least one route { upstream, model, weight, tier }")
        return
    seen: set[tuple[str, str]] = set()
    tiers = {route.tier for route in routes}
    for at, route in enumerate(routes):
        where, model = f"{key}[{at}]", route.model or table.id
        if route.upstream not in upstreams:
            faults.add(join(where, "upstream"), f"no [upstreams.{route.upstream}] in this file")
        if not _is_plain_id(model):
            faults.add(join(where, "model"), _NOT_PLAIN)
        if (route.upstream, model) in seen:
            faults.add(where, f"{route.upstream} and {model} stand here twice: give one of them the weight of both")
        seen.add((route.upstream, model))
        if route.tier > 1 and route.tier - 1 not in tiers:
            faults.add(join(where, "tier"), f"there is no route of tier {route.tier - 1}")
    if not any(route.weight for route in routes):
        faults.add(key, "every weight is 0: no route could be asked")


def _upstream_of(table: ModelTable, key: str, upstreams: Collection[str], faults: Faults) -> str:
    """Return the model's upstream; if it is left out, the only one there is."""
    if table.upstream is None and len(upstreams) == 1:
        return next(iter(upstreams))
    if table.upstream is None:
        faults.add(join(key, "upstream"), "missing: it can be left out only where there is one upstream")
    elif table.upstream not in upstreams:
        faults.add(join(key, "upstream"), f"no [upstreams.{masked(table.upstream)}] in this file")
    return table.upstream or ""


def _check_defaults(defaults: Mapping[str, object], key: str, faults: Faults) -> None:
    for name, value in defaults.items():
        if name.lower() in _NEVER_DEFAULTS:
            faults.add(join(key, name), "is never a default: it is the client's or the gateway's own")
        elif not _is_json(value):
            faults.add(join(key, told_key(name, ())), "cannot stand in JSON (a date, a time, or a number that is not finite)")


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_json(part) for part in value.values())
    if isinstance(value, list):
        return all(_is_json(part) for part in value)
    return not isinstance(value, date | datetime | time) and not (isinstance(value, float) and not isfinite(value))


def _read_price(table: ModelTable, key: str, faults: Faults) -> Price | None:
    if not table.price.keys() & _PRICE_KEYS[table.kind]:
        faults.add(key, f"the price of a model of kind {table.kind} is {_PRICE_FORMS[table.kind]}")
        return None
    match table.kind:
        case "chat":
            return _read_chat_price(table.price, key, faults)
        case "image":
            return _read_image_price(table.price, key, faults)
        case "video":
            return _read_video_price(table, key, faults)


def _read_chat_price(price: Mapping[str, object], key: str, faults: Faults) -> ChatPrice | None:
    if "tiers" not in price:
        flat = read_table(ChatPriceTable, price, key, faults)
        tier = flat and _tier(flat, None, key, faults)
        return ChatPrice((tier,)) if tier else None
    for name in price.keys() - {"tiers"}:
        faults.add(join(key, told_key(name, ChatTierTable.__struct_fields__)), "stands inside the tiers, or there are none")
    tables = price["tiers"]
    if not isinstance(tables, list) or not tables:
        faults.add(join(key, "tiers"), "must be an array of at least one tier")
        return None
    return _read_tiers(tables, join(key, "tiers"), faults)


def _read_tiers(tables: list[object], key: str, faults: Faults) -> ChatPrice | None:
    tiers: list[ChatTier] = []
    longest = 0
    for index, value in enumerate(tables):
        at, is_last = f"{key}[{index}]", index == len(tables) - 1
        table = read_table(ChatTierTable, value, at, faults)
        if table is None:
            continue
        if is_last != (table.up_to is None):
            faults.add(join(at, "up_to"), "the last tier has no end" if is_last else "missing: only the last tier has no end")
        elif table.up_to is not None and table.up_to <= longest:
            faults.add(join(at, "up_to"), f"must be over the tier before, which ends at {longest}")
        longest = table.up_to or longest
        if (tier := _tier(table, table.up_to, at, faults)) is not None:
            tiers.append(tier)
    return ChatPrice(tuple(tiers)) if len(tiers) == len(tables) else None


def _tier(table: ChatPriceTable, up_to_tokens: int | None, key: str, faults: Faults) -> ChatTier | None:
    fresh = _amount(parse_token_price, table.input, join(key, "input"), faults)
    output = _amount(parse_token_price, table.output, join(key, "output"), faults)
    cached = fresh if table.cached_input is None else _amount(parse_token_price, table.cached_input, join(key, "cached_input"), faults)
    if fresh is None or output is None or cached is None:
        return None
    if cached > fresh:  # never intended: the two were swapped
        faults.add(join(key, "cached_input"), "must not be dearer than input")
    return ChatTier(up_to_tokens, input=fresh, output=output, cached_input=cached)


def _read_image_price(price: Mapping[str, object], key: str, faults: Faults) -> ImagePrice | None:
    table = read_table(ImagePriceTable, price, key, faults)
    image = None if table is None else _amount(parse_price, table.image, join(key, "image"), faults)
    return None if image is None else ImagePrice(image)


def _read_video_price(model: ModelTable, key: str, faults: Faults) -> VideoPrice | None:
    table = read_table(VideoPriceTable, model.price, key, faults)
    if table is None:
        return None
    rate = _rate(table, key, faults)
    by_resolution: dict[str, VideoRate] = {}
    for resolution, value in table.by_resolution.items():
        at = f'{key}.by_resolution."{told_key(resolution, model.resolutions)}"'
        if model.resolutions and resolution not in model.resolutions:
            faults.add(at, f"is not among the model's resolutions: {', '.join(model.resolutions)}")
        rates = read_table(VideoRateTable, value, at, faults)
        if rates is not None and (special := _rate(rates, at, faults)) is not None:
            by_resolution[resolution] = special
    flex = None if table.flex is None else _amount(_parse_flex, table.flex, join(key, "flex"), faults)
    return None if rate is None else VideoPrice(rate, MappingProxyType(by_resolution), flex)


def _rate(table: VideoRateTable, key: str, faults: Faults) -> VideoRate | None:
    silent = _amount(parse_token_price, table.silent, join(key, "silent"), faults)
    audio = silent if table.audio is None else _amount(parse_token_price, table.audio, join(key, "audio"), faults)
    return None if silent is None or audio is None else VideoRate(silent=silent, audio=audio)


def _parse_flex(text: Amount) -> int:
    """Return a factor over 0 and up to 1 in thousandths."""
    permille = int(Decimal(parse_price(text)) / 1_000_000)
    if not 0 < permille <= 1000:
        raise ValueError(f"must be a factor over 0 and up to 1, not {text}")
    return permille


def _amount(parse: Callable[[Amount], V], amount: Amount, key: str, faults: Faults) -> V | None:
    try:
        return parse(amount)
    except ValueError as error:
        faults.add(key, masked(str(error)))
        return None
