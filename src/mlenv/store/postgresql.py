"""
PostgreSQL: how it is reached, what its addresses look like, and what its errors mean.

What may be waited for has a limit: connecting, a statement, a lock, a transaction that does nothing. A connection that
was not used for a while is tried before it is, so that a database may be started anew under a server.
"""

import random
import time
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from mlenv.errors import InvalidInput, MlenvError
from mlenv.store.database import (
    StoreBusy,
    StoreCrowded,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    UnstorableValue,
)

#: Seconds to wait for a connection, for one of the pool, for a statement, and for a lock.
CONNECT_TIMEOUT: Final = 10
POOL_TIMEOUT: Final = 15
STATEMENT_TIMEOUT: Final = 30
LOCK_TIMEOUT: Final = 15
#: Seconds that a transaction may do nothing, before the database ends it and lets go of its locks.
IDLE_TIMEOUT: Final = 60
#: Connections of one process. All are kept: to make one takes longer than most requests do.
POOL_SIZE: Final = 20

_DRIVERS: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
#: Every list here is a page in the order of an index, and what is joined to its rows is found by an index. Without statistics
#: yet, for a limit that it does not know, or where one environment has most of the versions, the planner would rather read
#: all rows, and sort or hash them. Of the values of one request it would make the same plan again, and take longer for that
#: than most take to run.
_PLANS: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    "plan_cache_mode": "force_generic_plan",
}
_OPTIONS: Final = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "statement_timeout": f"{STATEMENT_TIMEOUT}s",
        "lock_timeout": f"{LOCK_TIMEOUT}s",
        "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
        **_PLANS,
    }.items()
)
#: Seconds after which a connection that was not used is tried before it is.
_TRIED_AFTER: Final = 5.0
#: How soon a machine that vanished is noticed (libpq, "Parameter Key Words"): seconds, but for the timeout in milliseconds.
_KEEPALIVE: Final = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# PostgreSQL's documentation, appendix A, "Error Codes".
_OVERTAKEN: Final = frozenset({"40001", "40P01", "23505"})
_BUSY: Final = frozenset({"55P03", "57014", "40001", "40P01", "25P03"})
_BUSY_HINT: Final = "try again; if it stays so, see `pg_stat_activity` for what holds the lock"
_FULL_HINT: Final = "make room on the disk of the database"
_UNUSABLE_HINT: Final = "check the database's own log, and that its user may use and change its tables"
_CROWDED: Final = ("too many clients", "too many connections", "remaining connection slots")


class InvalidDatabase(InvalidInput):
    """The address of a database that none can be at."""

    hint = "write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with `%40` for an `@` in a password"

    def __init__(self, why: str) -> None:
        # NOTE: the address itself is not repeated, for where its password is can't be told.
        super().__init__(f"not the address of a database: {why}")


def parse_url(text: str) -> URL:
    """A PostgreSQL address, for the driver that is used. Raises `InvalidDatabase`."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidDatabase("it can't be read") from None
    if url.drivername not in _DRIVERS:
        raise InvalidDatabase(f"it begins with {url.drivername!r}, expected 'postgresql'")
    return url.set(drivername="postgresql+psycopg")


def postgresql_engine(url: URL, *, autocommit: bool = False) -> Engine:
    """
    An engine with a pool of connections. Nothing is connected yet.

    Args:
        autocommit: Whether the driver is to begin no transactions by itself.
    """
    given = url.query.get("options", "")
    options = f"{_OPTIONS} {given if isinstance(given, str) else ' '.join(given)}".strip()
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": "mlenv",
        "client_encoding": "UTF8",
        **_KEEPALIVE,
    }
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args={key: value for key, value in arguments.items() if key not in url.query} | {"options": options},
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # The one that was used last has what it needs in its caches, and the others are left alone.
        pool_use_lifo=True,
        # No table here has a value of that type, and each connection would ask for it.
        use_native_hstore=False,
        pool_recycle=1800,
        isolation_level="AUTOCOMMIT" if autocommit else None,
        # Whoever begins transactions by statements ends them as well: the pool would look at each connection once more.
        pool_reset_on_return=None if autocommit else "rollback",
    )

    @event.listens_for(engine, "checkin")
    def _used(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _try(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) > _TRIED_AFTER:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.dbapi.Error as error:  # type: ignore[union-attr]
                # This makes the pool forget all its connections, and make a new one.
                raise DisconnectionError from error

    return engine


def where(url: URL) -> str:
    """A database's address without password and parameters, for messages."""
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return bare.render_as_string(hide_password=True)


def overtaken(error: BaseException) -> bool:
    """Whether another transaction came first, so that the same transaction may work when it is run again."""
    return getattr(error, "sqlstate", None) in _OVERTAKEN


def pause(attempt: int) -> float:
    """How long to wait before that attempt's transaction is run again, in seconds: longer each time, and by chance."""
    return random.uniform(0.0, 0.01 * 2**attempt)


def meaning(error: BaseException | None, url: URL) -> MlenvError:
    """What an error of the driver means to the user."""
    state = getattr(error, "sqlstate", None) or ""
    place, why = where(url), _reason(error, url)
    if state in _BUSY:
        return StoreBusy(place, hint=_BUSY_HINT)
    if state == "53100":
        return StoreFull(place, hint=_FULL_HINT)
    if state == "53300" or any(text in why for text in _CROWDED):
        return StoreCrowded(place)
    if state == "25006":
        return StoreReadOnly(place)
    if state.startswith(("22", "54")) or type(error).__name__ == "DataError":
        return UnstorableValue(why)
    if state in {"XX001", "XX002"}:
        return StoreDamaged(place, why)
    if state.startswith(("08", "28", "3D", "57P")) or _lost(error):
        return StoreUnreachable(place, why)
    return StoreUnusable(place, why, hint=_UNUSABLE_HINT)


def _lost(error: BaseException | None) -> bool:
    """The driver's errors of connections have no code of PostgreSQL."""
    return not getattr(error, "sqlstate", None) and type(error).__name__ in {
        "OperationalError",
        "ConnectionTimeout",
        "InterfaceError",
    }


def _reason(error: BaseException | None, url: URL) -> str:
    """The first line of the database's message. Its later lines quote rows."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text.replace(url.password, "***") if url.password else text
