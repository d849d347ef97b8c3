"""The statements over namespaces, people, tokens, audit and answers. Only servers make them."""

from typing import Final

from sqlalchemy import Executable, Text, and_, bindparam, cast, delete, insert, literal, or_, select, true, update

from mlenv.store import tables
from mlenv.store.sql_functions import sha256_hex
from mlenv.store.statements import is_parameter


def _scopes() -> dict[str, Executable]:
    table = tables.scopes
    return {
        "scope": select(table).where(is_parameter(table, "key")),
        "scope_by_id": select(table).where(is_parameter(table, "id")),
        "scopes": select(table).where(is_parameter(table, "kind")).order_by(table.c.name),
        "insert_scope": insert(table),
        "scope_settings": select(table.c.settings).where(is_parameter(table, "key")),
        "set_scope_settings": update(table).where(is_parameter(table, "key")).values(settings=bindparam("settings")),
    }


def _principals() -> dict[str, Executable]:
    table, grants = tables.principals, tables.grants
    return {
        "principal": select(table).where(is_parameter(table, "id")),
        "principal_to_change": select(table).where(is_parameter(table, "id")).with_for_update(),
        "principal_by_name": select(table).where(is_parameter(table, "name")),
        "principal_by_subject": select(table).where(is_parameter(table, "subject")),
        "principals": select(table).order_by(table.c.name),
        "insert_principal": insert(table),
        "all_grants": select(grants),
        "grants_in": select(grants).where(is_parameter(grants, "scope", "role")),
        "grants": select(grants).where(is_parameter(grants, "principal")),
        "delete_grant": delete(grants).where(is_parameter(grants, "principal", "scope")),
        "insert_grant": insert(grants),
    }


def _tokens() -> dict[str, Executable]:
    table = tables.tokens
    newest = (table.c.created_at.desc(), table.c.id.desc())
    good = and_(table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > bindparam("now")))
    return {
        "token": select(table).where(is_parameter(table, "id")),
        "token_by_digest": select(table).where(is_parameter(table, "digest")),
        "token_to_change": select(table).where(is_parameter(table, "id")).with_for_update(),
        "good_token": select(table).where(is_parameter(table, "digest"), good),
        "tokens": select(table).order_by(*newest),
        "tokens_of": select(table).where(is_parameter(table, "principal")).order_by(*newest),
        "insert_token": insert(table),
        "revoke_token": update(table)
        .where(table.c.id == bindparam("the_id"), table.c.revoked_at.is_(None))
        .values(revoked_at=bindparam("revoked_at")),
    }


def _audit() -> dict[str, Executable]:
    table, head = tables.audit, tables.audit_head
    page = (
        select(table).where(table.c.sequence > bindparam("after")).order_by(table.c.sequence).limit(bindparam("limit"))
    )
    newest = (
        select(table)
        .where(table.c.sequence < bindparam("before"))
        .order_by(table.c.sequence.desc())
        .limit(bindparam("limit"))
    )
    return {
        # Whoever has read this row is the only one to write records until the transaction ends.
        "audit_head": select(head).where(head.c.id == 1).with_for_update(),
        "insert_audit": _insert_audit(),
        "update_audit_head": update(head)
        .where(head.c.id == 1, table.c.sequence == head.c.sequence + 1)
        .values(sequence=table.c.sequence, hash=table.c.hash),
        "audit_end": select(head).where(head.c.id == 1),
        "audit": page,
        "audit_of": page.where(is_parameter(table, "scope")),
        "newest_audit": newest,
        "newest_audit_of": newest.where(is_parameter(table, "scope")),
    }


def _insert_audit() -> Executable:
    """
    The pieces of an `mlenv.core.audit.Unchained`, put together behind the chain's end, which is locked.

    It fails if somebody has removed the end: nothing can be changed without leaving a record.
    """
    table, head = tables.audit, tables.audit_head
    end_of_chain = select(head).where(head.c.id == 1).with_for_update().subquery("end_of_chain")
    always = select(literal(1).label("one")).subquery("always")
    # A row in any case: of nulls, which can't be written, where there is no end.
    last = select(end_of_chain).select_from(always.outerjoin(end_of_chain, true())).subquery("last")
    start, joint, middle, end = (bindparam(name, type_=Text) for name in ("start", "joint", "middle", "end"))
    rest = joint + last.c.hash + middle + cast(last.c.sequence + 1, Text) + end
    chained = select(
        last.c.sequence + 1, sha256_hex(start + rest).label("hash"), start.label("start"), rest.label("rest")
    )
    row = chained.subquery("chained")
    at, scope = (bindparam(name, type_=table.c[name].type) for name in ("at", "scope"))
    values = {"sequence": row.c[0], "at": at, "scope": scope, "document": row.c.start + row.c.hash + row.c.rest}
    return insert(table).from_select([*values, "hash"], select(*values.values(), row.c.hash))


def _replies() -> dict[str, Executable]:
    table = tables.replies
    return {
        "reply": select(table).where(is_parameter(table, "principal", "key")),
        "insert_reply": insert(table),
        "purge_replies": delete(table).where(table.c.created_at < bindparam("before")),
    }


STATEMENTS: Final[dict[str, Executable]] = {**_scopes(), **_principals(), **_tokens(), **_audit(), **_replies()}
