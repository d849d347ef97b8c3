"""uvicorn in a thread, on loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

#: Seconds that it may take to end.
_PATIENCE = 30


@contextmanager
def serve(config: uvicorn.Config) -> Iterator[int]:
    """Serve what a configuration says, as long as the context lasts; gives the port."""
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(_PATIENCE)
    listening.close()
