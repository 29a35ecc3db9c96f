"""Operations on keys: made, limited, paused, rolled, revoked, and whose they are."""

from typing import Annotated, ClassVar

from msgspec import Meta

from proxy import ids
from proxy.core.limits import NO_LIMITS, Limits, LimitsChange
from proxy.core.timestamps import iso_or_none
from proxy.operations import views
from proxy.operations.dates import parse_span
from proxy.operations.limits import LimitedOperation, Pausing, Resuming
from proxy.operations.operation import MAY_BE_DONE, Answer, Operation, Operator
from proxy.operations.parameters import AccountName, KeyId, KeySecret, Label, check_label
from proxy.store.values import Key, NewKey

PREFIX_MIN = 5
Id = Annotated[str, Meta(min_length=1, max_length=100)]


class KeyCreate(LimitedOperation, frozen=True, kw_only=True):
    """Make a key. Its secret is in the answer and nowhere else."""

    name: ClassVar = "key.create"
    account: AccountName
    label: Label = ""
    id: KeyId = ""
    secret: KeySecret = ""
    """Id and secret that the caller has drawn, so that it can ask again for this very key. Empty: both are drawn here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label("label", self.label)
        _check_drawn("id", self.id, self.secret)

    @property
    def is_repeatable(self) -> bool:
        return bool(self.id)

    @property
    def doubt(self) -> str:
        key = self.id or "ID"
        return (
            f"{MAY_BE_DONE}, and nobody has the key's secret: look with `llm-proxy key list`, revoke it with "
            f"`llm-proxy key revoke {key}`, and make another"
        )

    async def run(self, operator: Operator) -> Answer:
        new, secret = _new_key(self.id, self.secret, operator, self.label, self.change_now(operator).of(NO_LIMITS))
        key = await operator.store.create_key(self.account, new)
        await operator.changed()
        return _made(key, secret)


class KeyList(Operation, frozen=True, kw_only=True):
    """Show the keys of an account, or of all, with their limits, what is spent of these, and when each was last used."""

    name: ClassVar = "key.list"
    account: AccountName | None = None

    async def run(self, operator: Operator) -> Answer:
        keys, now_ms = await operator.store.keys(self.account), operator.clock.now_ms()
        uses = await operator.store.key_use(now_ms, self.account)
        return {"keys": views.keys(keys, uses, now_ms, operator.zone)}


class KeySet(LimitedOperation, frozen=True, kw_only=True):
    """Change limits of a key and of all its secrets. The gateway counts by them from the next request on."""

    name: ClassVar = "key.set"
    id: Id

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_empty:
            raise ValueError("there is nothing to set: name a limit")

    async def run(self, operator: Operator) -> Answer:
        return await _set_limits(operator, self.id, self.change_now(operator))


class OfKey(Operation, frozen=True, kw_only=True):
    """An operation that changes one key's limits."""

    id: Id

    async def set_limits(self, operator: Operator, change: LimitsChange) -> Answer:
        return await _set_limits(operator, self.id, change)


class KeyPause(OfKey, Pausing, frozen=True, kw_only=True):
    """Refuse a key, with all its secrets, until it is resumed. What streams already goes on."""

    name: ClassVar = "key.pause"


class KeyResume(OfKey, Resuming, frozen=True, kw_only=True):
    """Let a paused key be used again."""

    name: ClassVar = "key.resume"


class KeyRoll(Operation, frozen=True, kw_only=True):
    """Give a key a new secret, with the same name, limits and spend. The old one ends after the overlap."""

    name: ClassVar = "key.roll"
    changes: ClassVar = True
    id: Id
    overlap: Annotated[str, Meta(max_length=20)] = "0"
    new_id: KeyId = ""
    secret: KeySecret = ""
    """Id and secret that the caller has drawn, as in ``key.create``."""

    def __post_init__(self) -> None:
        _overlap_ms(self.overlap)
        _check_drawn("new_id", self.new_id, self.secret)

    @property
    def is_repeatable(self) -> bool:
        return bool(self.new_id)

    @property
    def doubt(self) -> str:
        return f"{MAY_BE_DONE}, and nobody has the new secret: look with `llm-proxy key list`, and roll the newest of its secrets"

    async def run(self, operator: Operator) -> Answer:
        new, secret = _new_key(self.new_id, self.secret, operator)
        key = await operator.store.roll_key(self.id, new, _overlap_ms(self.overlap), new.created_at_ms)
        await operator.changed()
        (old,) = [one for one in await operator.store.keys(key.account) if one.id == self.id]
        return _made(key, secret) | {"old_id": old.id, "old_ends_at": iso_or_none(old.ends_at_ms)}


class KeyRevoke(Operation, frozen=True, kw_only=True):
    """Revoke a key for good, with all its secrets. The gateway refuses it from the next request on."""

    name: ClassVar = "key.revoke"
    changes: ClassVar = True
    id: Id

    async def run(self, operator: Operator) -> Answer:
        key = await operator.store.revoke_key(self.id, operator.clock.now_ms())
        await operator.changed()
        return await _view(operator, key)


class KeyFind(Operation, frozen=True, kw_only=True):
    """Show whose key begins so, and whether it lives: of a whole secret the very key, else those that it may be."""

    name: ClassVar = "key.find"
    prefix: Annotated[str, Meta(max_length=200)]

    def __post_init__(self) -> None:
        if len(self.prefix) < PREFIX_MIN:
            raise ValueError(f"prefix: {PREFIX_MIN} characters at least, {ids.KEY_PREFIX} among them")

    async def run(self, operator: Operator) -> Answer:
        keys, now_ms = await operator.store.find_keys(self.prefix.strip()), operator.clock.now_ms()
        uses = await operator.store.key_use(now_ms) if keys else []
        return {"keys": views.keys(keys, uses, now_ms, operator.zone)}


async def _set_limits(operator: Operator, key_id: str, change: LimitsChange) -> Answer:
    key = await operator.store.set_key_limits(key_id, change, operator.clock.now_ms())
    await operator.changed()
    return await _view(operator, key)


async def _view(operator: Operator, key: Key) -> Answer:
    now_ms = operator.clock.now_ms()
    uses = await operator.store.key_use(now_ms, key.account, key.identity)
    return views.keys([key], uses, now_ms, operator.zone)[0]


def _check_drawn(parameter: str, key_id: str, secret: str) -> None:
    if bool(key_id) != bool(secret):
        raise ValueError(f"{parameter}: goes with a secret, and a secret with an id")


def _new_key(key_id: str, secret: str, operator: Operator, label: str = "", limits: Limits = NO_LIMITS) -> tuple[NewKey, ids.Secret]:
    """Return a key to be stored, with the id and secret that the caller has drawn, or (empty) others."""
    its = ids.secret_from(secret) if secret else ids.new_secret()
    return NewKey(key_id or ids.key_id(), label, its.prefix, its.sha256, operator.clock.now_ms(), limits), its


def _made(key: Key, secret: ids.Secret) -> Answer:
    return {"id": key.id, "key": secret.text, "account": key.account, "name": key.name}


def _overlap_ms(text: str) -> int:
    try:
        return parse_span(text)
    except ValueError as error:
        raise ValueError(f"overlap: {error}") from None
