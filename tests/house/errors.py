"""Finds `except` clauses that lose an error."""

import ast
from collections.abc import Iterable

from tests.house.source import SourceModule

_CATCH_ALL = {"Exception", "BaseException"}
_CANCELLED = "CancelledError"


def lost_errors(modules: Iterable[SourceModule]) -> list[str]:
    """Find every `except`, and every `suppress`, that lets an error disappear."""
    return [
        f"{module.at(node)}: {complaint}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler | ast.Call) and (complaint := _complaint(node)) is not None
    ]


def _complaint(node: ast.ExceptHandler | ast.Call) -> str | None:
    if isinstance(node, ast.Call):
        return _complaint_about_call(node)
    caught = _names(node.type)
    if node.type is None:
        return "a bare except catches everything; name the error"
    if all(_does_nothing(statement) for statement in node.body):
        return "the error is swallowed"
    if _CANCELLED in caught and not _raises(node):
        return "a cancellation is caught and not raised again"
    if caught & _CATCH_ALL and not (_raises(node) or _keeps(node)):
        return "every error is caught and none is kept"
    return None


def _complaint_about_call(call: ast.Call) -> str | None:
    suppressed = set[str]().union(*(_names(argument) for argument in call.args))
    if _last_name(call.func) == "suppress" and suppressed & (_CATCH_ALL | {_CANCELLED}):
        return "the errors are swallowed"
    return None


def _names(expression: ast.expr | None) -> set[str]:
    if isinstance(expression, ast.Tuple):
        return set[str]().union(*(_names(element) for element in expression.elts))
    return set() if expression is None else {_last_name(expression)}


def _last_name(expression: ast.expr) -> str:
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Constant()):
            return True
        case _:
            return False


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def _keeps(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler uses the error it has a name for, or logs it with its traceback."""
    return any(
        (isinstance(node, ast.Name) and node.id == handler.name)
        or (isinstance(node, ast.Attribute) and node.attr == "exception")
        for node in ast.walk(handler)
    )
