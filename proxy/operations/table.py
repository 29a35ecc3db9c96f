"""The operations by their names: `prepare` checks one, `run` carries it out."""

from collections.abc import Mapping

import msgspec

from proxy.operations.accounts import AccountCreate, AccountCredit, AccountList, AccountShow, KeyCreate, KeyList, KeyRevoke
from proxy.operations.books import Backup, LedgerVerify, RetentionFold, RetentionLook, ShowReceipt, Usage
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import ParameterError, UnknownOperationError
from proxy.operations.reloading import Reload

OPERATIONS: Mapping[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        AccountCreate,
        AccountList,
        AccountShow,
        AccountCredit,
        KeyCreate,
        KeyList,
        KeyRevoke,
        Usage,
        ShowReceipt,
        LedgerVerify,
        Backup,
        Reload,
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
    try:
        return msgspec.convert(parameters, type=operation)
    except msgspec.ValidationError as error:
        raise ParameterError(str(error).replace(" - at `$.", " - at `")) from None


async def run(operator: Operator, name: str, parameters: object) -> Answer:
    """Carry out an operation by name. Raises: ParameterError, StoreError."""
    return await prepare(name, parameters).run(operator)
