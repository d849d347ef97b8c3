"""
What the rows of a server are compared with: FastAPI, uvicorn and SQLAlchemy doing nothing but the reading and the writing.

It answers the requests of `benchmarks.server` out of the same tables: a statement or four, rows turned into JSON. It knows
no users, rules, audit, limits, labels, checks of a body, keys or conditions. Aims in milliseconds depend on a machine; what
this takes on the same machine in the same minute says what that machine lets any server of this kind do.
"""

import argparse
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Connection, create_engine, event, insert, select, update
from uvicorn.supervisors import Multiprocess

from mlenv.store.tables import environments, specs, versions

#: The address of the database, for the processes that uvicorn starts.
DATABASE: Final = "MLENV_BENCHMARK_DATABASE"
_PAGE: Final = 50
_TIME: Final = "2026-01-01T00:00:00.000000Z"
_BASE: Final = "/api/v1/workspaces/{workspace}/environments"
_SAME_SPEC: Final = (specs.c.workspace == versions.c.workspace) & (
    specs.c.document_digest == versions.c.document_digest
)


def make() -> FastAPI:
    """The application, for a process of uvicorn."""
    app, url = FastAPI(), os.environ[DATABASE]
    # SQLite lets those that wait for a lock in by chance: whom it passes over waits for longer than the usual five seconds.
    waits = {"timeout": 60} if url.startswith("sqlite") else {}
    engine = create_engine(url, pool_size=16, max_overflow=32, connect_args=waits)
    if engine.dialect.name == "sqlite":
        # As SQLAlchemy's documentation has it: the driver begins no transaction, so that a writing one can be one at once.
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))

    @contextmanager
    def writing() -> Iterator[Connection]:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @app.get(f"{_BASE}/{{name}}/versions/{{version}}")
    def get(workspace: str, name: str, version: str) -> JSONResponse:
        its = (versions.c.workspace == workspace, versions.c.name == name, versions.c.version == version)
        with engine.connect() as connection:
            row = connection.execute(select(versions, specs.c.document).join(specs, _SAME_SPEC).where(*its)).one()
        return JSONResponse(_version(row._asdict()))

    @app.get(_BASE)
    def list_environments(workspace: str) -> JSONResponse:
        page = select(environments).where(environments.c.workspace == workspace)
        with engine.connect() as connection:
            rows = connection.execute(page.order_by(environments.c.name).limit(_PAGE)).all()
        return JSONResponse({"items": [row._asdict() for row in rows]})

    @app.get(f"{_BASE}/{{name}}/versions")
    def list_versions(workspace: str, name: str) -> JSONResponse:
        its = (versions.c.workspace == workspace, versions.c.name == name)
        page = select(versions, specs.c.document).join(specs, _SAME_SPEC).where(*its)
        with engine.connect() as connection:
            rows = connection.execute(page.order_by(versions.c.sequence.desc()).limit(_PAGE)).all()
        return JSONResponse({"items": [_version(row._asdict()) for row in rows]})

    def create(workspace: str, name: str, spec: object) -> dict[str, Any]:
        document = json.dumps(spec, sort_keys=True)
        digest = f"sha256:{hashlib.sha256(document.encode()).hexdigest()}"
        its = (environments.c.workspace == workspace, environments.c.name == name)
        times = {"created_at": _TIME, "modified_at": _TIME}
        with writing() as connection:
            found = connection.execute(select(environments).where(*its).with_for_update()).one_or_none()
            number = 1 if found is None else found.last_sequence + 1
            counters = {"latest_version": str(number), "next_version": str(number + 1), "last_sequence": number}
            key = {"workspace": workspace, "name": name}
            if found is None:
                connection.execute(insert(environments), key | counters | times | {"archived": 0})
            else:
                connection.execute(update(environments).where(*its).values(counters))
            stored = {"workspace": workspace, "document_digest": digest, "document": document}
            connection.execute(insert(specs), stored)
            row = key | {"version": str(number), "sequence": number, "spec_digest": digest, "document_digest": digest}
            row |= {"description": None, "tags": "{}", "archived": 0, "details": None} | times
            connection.execute(insert(versions), row)
        return row | {"document": document}

    @app.post(_BASE)
    async def post(workspace: str, request: Request) -> JSONResponse:
        from fastapi.concurrency import run_in_threadpool

        body = await request.json()
        row = await run_in_threadpool(create, workspace, body["name"], body["spec"])
        return JSONResponse(_version(row), status_code=201)

    return app


def _version(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"tags": json.loads(row["tags"]), "document": json.loads(row["document"])}


def main() -> None:
    """Serve on loopback until a signal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_peer")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        "benchmarks.server_peer:make",
        factory=True,
        port=arguments.port,
        workers=arguments.processes,
        log_level="warning",
        access_log=False,
        timeout_worker_healthcheck=60,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
    )
    listening = config.bind_socket()
    # Of a socket that its parent made, uvicorn's processes send heads at once and bodies 40 ms later: not what is compared.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    Multiprocess(config, sockets=[listening]).run()


if __name__ == "__main__":
    main()
