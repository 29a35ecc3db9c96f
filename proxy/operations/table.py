"""The operations by their names: `prepare` checks one, `run` carries it out."""

from collections.abc import Mapping

import msgspec

from proxy.operations.accounts import AccountClose, AccountList, AccountResume, AccountSet, AccountShow, AccountSuspend
from proxy.operations.books import Backup, LedgerVerify, RetentionFold, RetentionLook, ShowReceipt, Usage
from proxy.operations.keys import KeyCreate, KeyFind, KeyList, KeyPause, KeyResume, KeyRevoke, KeyRoll, KeySet
from proxy.operations.nodes import NodesDrain, NodesList
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import ParameterError, UnknownOperationError
from proxy.operations.payments import AccountCreate, AccountCredit, RequestRefund
from proxy.operations.reloading import Reload

OPERATIONS: Mapping[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        AccountCreate,
        AccountList,
        AccountShow,
        AccountCredit,
        AccountSet,
        AccountSuspend,
        AccountResume,
        AccountClose,
        RequestRefund,
        KeyCreate,
        KeyList,
        KeyFind,
        KeySet,
        KeyPause,
        KeyResume,
        KeyRoll,
        KeyRevoke,
        Usage,
        ShowReceipt,
        LedgerVerify,
        Backup,
        Reload,
        NodesList,
        NodesDrain,
        RetentionLook,
        RetentionFold,
    )
}


def prepare(name: str, parameters: object) -> Operation:
    """Return the operation of this name with its parameters, a JSON object.

    Raises:
        ParameterError: no such operation, or a parameter that it does not take; the text names it.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise UnknownOperationError(f"there is no operation {name!r}: there are {', '.join(OPERATIONS)}")
    _refuse_half_pairs(parameters)
    try:
        return msgspec.convert(parameters, type=operation)
    except msgspec.ValidationError as error:
        raise ParameterError(str(error).replace(" - at `$.", " - at `")) from None


def _refuse_half_pairs(parameters: object) -> None:
    """Refuse text that is no UTF-8: neither JSON nor the store takes it. A command line's bytes may be any. Raises: ParameterError."""
    for name, text in parameters.items() if isinstance(parameters, Mapping) else ():
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ParameterError(f"{name}: is no UTF-8 text")


async def run(operator: Operator, name: str, parameters: object) -> Answer:
    """Carry out an operation by name. Raises: ParameterError, StoreError."""
    return await prepare(name, parameters).run(operator)
