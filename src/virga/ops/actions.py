"""Instance actions and their events, as `os-instance-actions` shows them: what users asked for and how far it came.

Written in the same transaction as the operation they tell of. An event's result is Success or Error; a failed event sets the action's message.
"""
from __future__ import annotations

from virga.domain.operation import Action, ActionEvent, Operation
from virga.store.db import Tx


def begin(tx: Tx, server_id: str, action: str, *, project_id: str, user_id: str, request_id: str, operation_id: str = "") -> None:
    """Record that a user asked for `action`."""
    tx.put(Action(server_id, request_id, action, project_id, user_id, tx.now, tx.now, operation_id=operation_id))


def begin_event(tx: Tx, op: Operation, name: str, host: str) -> None:
    tx.put(ActionEvent(op.server_id, op.request_id, name, tx.now, host=host or None))


def end_event(tx: Tx, op: Operation, name: str, error: str) -> None:
    tx.update(ActionEvent, op.server_id, op.request_id, name, finished_at=tx.now, result="Error" if error else "Success", detail=error or None)


def finish(tx: Tx, op: Operation, error: str) -> None:
    """Close the action of an operation that ended, and events it left open."""
    about = {"server_id": op.server_id, "request_id": op.request_id}
    tx.update_where(ActionEvent, {"finished_at": tx.now, "result": "Error" if error else "Success", "detail": error or None}, result=None, **about)
    tx.update_where(Action, {"updated_at": tx.now, "message": "Error" if error else None}, **about)
