"""A server that gives prepared answers, on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlenv.client.http import Http

TOKEN = "mlenv_Secret-0123456789"
#: Status, headers and body; None to hang up without an answer.
Said = tuple[int, dict[str, str], bytes] | None


def problem(status: int, **members: Any) -> Said:
    document = {"title": "Problem", "status": status, **members}
    return status, {"content-type": "application/problem+json"}, json.dumps(document).encode()


def good(document: Any) -> Said:
    return 200, {"content-type": "application/json"}, json.dumps(document).encode()


@dataclass
class Script:
    """A server that gives prepared answers, one after another, the last one again and again."""

    answers: list[Said]
    url: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def http(self, **more: Any) -> Http:
        return Http(self.url, TOKEN, pause=self.pauses.append, **more)


@contextmanager
def scripted(*answers: Said) -> Iterator[Script]:
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append((self.command, self.path, headers, body))
            said = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if said is None:
                self.close_connection = True
                return
            status, more, content = said
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = answer

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
