"""A server on loopback that speaks the Hugging Face Hub's HTTP for files, well or badly, as a test wants it.

The metadata of a file are on the answer to ``/REPOSITORY/resolve/REVISION/FILE``, which sends who wants the content on to
another host, as the Hub does: here the same server under the name ``localhost``. It is also a proxy for plain HTTP.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
#: Bytes that are sent at once.
_BLOCK = 1 << 16


@dataclass
class Request:
    """A request as it came.

    Attributes:
        kind: ``metadata`` (of a file), ``content`` or ``other``.
        method: HEAD or GET.
        path: Without host.
        host: As the client asked for it.
        token: The Authorization header, or None.
        range: The Range header, or None.
        sent: Bytes of content that were sent.
    """

    kind: str
    method: str
    path: str
    host: str
    token: str | None
    range: str | None
    sent: int = 0


@dataclass
class Behaviour:
    """What the server does; change it while it runs.

    Attributes:
        metadata: Answers to give to requests for metadata before the right one: status and headers.
        content: The same for content.
        forever: Give the last of these answers for ever.
        cut: Send so many bytes of content, then close the connection; each is used once.
        pause: Seconds to wait before each 64 kB of content.
        stall: Send 64 kB, then nothing more until the server ends.
        wrong: Send these bytes instead of the content's first ones.
        hashed: Whether the ETag is the content's SHA256, as for large files on the Hub.
        commit: The X-Repo-Commit header; None leaves it out.
        token: The token to ask for, or None.
    """

    metadata: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    content: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    forever: bool = False
    cut: list[int] = field(default_factory=list)
    pause: float = 0.0
    stall: bool = False
    wrong: bytes = b""
    hashed: bool = True
    commit: str | None = COMMIT
    token: str | None = None


class HubServer:
    """The server; a context manager.

    Args:
        files: Content, or the file that holds it, by ``REPOSITORY/FILE``.

    Attributes:
        requests: All requests so far.
        behaviour: What it does.
    """

    def __init__(self, files: dict[str, bytes | Path]) -> None:
        self.files = dict(files)
        self.requests: list[Request] = []
        self.behaviour = Behaviour()
        self.ended = threading.Event()
        hub = self

        class Handler(_Handler):
            server_of = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def of_kind(self, kind: str) -> list[Request]:
        return [request for request in self.requests if request.kind == kind]

    @property
    def sent(self) -> int:
        """Bytes of content that were sent in all."""
        return sum(request.sent for request in self.of_kind("content"))

    def read(self, name: str) -> bytes:
        """Return a file's content, which is kept in memory."""
        content = self.files[name]
        if isinstance(content, Path):
            content = self.files[name] = content.read_bytes()
        return content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, behaviour = self.server_of, self.server_of.behaviour
        path = urlsplit(self.path).path  # A proxy is asked with the whole address.
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path)
        kind = "metadata" if found else "content" if path.startswith("/content/") else "other"
        host = urlsplit(self.path).netloc or self.headers.get("Host", "")
        request = Request(kind, self.command, path, host, self.headers.get("Authorization"), self.headers.get("Range"))
        hub.requests.append(request)
        if found:
            self._metadata(*found.groups(), request)
        elif kind == "content" and (answer := self._planned(behaviour.content)) is not None:
            self._refuse(*answer)
        elif kind == "content":
            self._content(path.removeprefix("/content/"), request, body=body)
        else:
            self._refuse(404, {})

    def _planned(self, answers: list[tuple[int, dict[str, str]]]) -> tuple[int, dict[str, str]] | None:
        if not answers:
            return None
        return answers[0] if self.server_of.behaviour.forever and len(answers) == 1 else answers.pop(0)

    def _metadata(self, repository: str, revision: str, file: str, request: Request) -> None:
        hub, behaviour = self.server_of, self.server_of.behaviour
        name = f"{repository}/{file}"
        if (answer := self._planned(behaviour.metadata)) is not None:
            self._refuse(*answer)
        elif behaviour.token is not None and request.token != f"Bearer {behaviour.token}":
            self._refuse(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif not any(one.startswith(f"{repository}/") for one in hub.files):
            self._refuse(401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", behaviour.commit):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        elif name not in hub.files:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": str(behaviour.commit)})
        else:
            content = hub.read(name)
            named = hashlib.sha256(content) if behaviour.hashed else hashlib.sha1(content, usedforsecurity=False)
            other = urlsplit(self.path).netloc.replace("hub.", "cdn.") or f"localhost:{hub.port}"
            self.send_response(302)
            if behaviour.commit is not None:
                self.send_header("X-Repo-Commit", behaviour.commit)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{named.hexdigest()}"')
            self.send_header("ETag", '"of-the-redirect"')
            self.send_header("Location", f"http://{other}/content/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _content(self, name: str, request: Request, *, body: bool) -> None:
        hub, behaviour = self.server_of, self.server_of.behaviour
        whole = hub.read(name)
        content = memoryview(behaviour.wrong + whole[len(behaviour.wrong) :] if behaviour.wrong else whole)
        first = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", request.range or "")) else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        end = len(content)
        if behaviour.cut:
            end = min(end, first + behaviour.cut.pop(0))
            self.close_connection = True
        try:
            for start in range(first, end, _BLOCK):
                time.sleep(behaviour.pause)
                block = content[start : min(start + _BLOCK, end)]
                self.wfile.write(block)
                request.sent += len(block)
                if behaviour.stall:
                    hub.ended.wait()
        except OSError:  # The client has gone.
            self.close_connection = True

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
