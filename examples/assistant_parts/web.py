"""A page on this machine alone, to try the assistant in a browser.

It listens on 127.0.0.1. A request must name that host, so that no other site's name can be made to
mean this machine (DNS rebinding), and must not come from another site's page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from assistant_parts.sensors import SAMPLES, read_picture, read_voice, write_voice
from mmedge import InputError, MMEdgeError

if TYPE_CHECKING:
    from assistant_parts.answers import Answer, Assistant

__all__ = ["MAX_BODY", "make_server"]

MAX_BODY = 8_000_000
"""Most bytes of a request."""

PAGE = Path(__file__).with_name("page.html")
TIMEOUT_S = 10.0


def make_server(assistant: Assistant, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, bound; its ``serve_forever`` answers one request after another.

    Args:
        assistant: who answers; this server alone uses it.
        port: 0: any that is free.
    """
    page = PAGE.read_bytes()
    policy = "default-src 'none'; connect-src 'self'; img-src 'self' data:; media-src data:"
    for tag, content in re.findall(r"<(script|style)>(.*?)</", page.decode(), re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy += f"; {tag}-src 'sha256-{digest}'"
    lists = {task: json.loads((SAMPLES / task / "samples.json").read_text("utf-8"))["samples"]
             for task in ("vqa", "hear", "label-translate")}  # fmt: skip
    files = {
        f"{task}/{row[key]}": SAMPLES / task / row[key]
        for task, rows in lists.items()
        for row in rows
        for key in ("image", "voice", "audio")
        if key in row
    }
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S  # of a client that says nothing

        def do_GET(self) -> None:
            if not self._is_own():
                return
            if self.path == "/":
                self._send(page, "text/html; charset=utf-8")
            elif self.path == "/samples.json":
                self._send_json(lists)
            elif self.path.removeprefix("/samples/") in files and self.path.endswith(".png"):
                self._send(files[self.path.removeprefix("/samples/")].read_bytes(), "image/png")
            else:
                self._send_json({"error": f"nothing at {self.path}"}, HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            if not self._is_own():
                return
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > MAX_BODY:
                self.close_connection = True
                error = f"a request of {size or 'unknown'} bytes, expected at most {MAX_BODY}"
                self._send_json({"error": error}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            body = self.rfile.read(int(size))
            if self.path != "/requests":
                self._send_json({"error": f"nothing at {self.path}"}, HTTPStatus.NOT_FOUND)
                return
            try:
                request = _fields(json.loads(body))
                picture = read_picture(_content(request["picture"], files))
                words = (
                    read_voice(_content(request["voice"], files))
                    if "voice" in request
                    else request["text"]
                )
                with lock:
                    answer = assistant.reply(words, picture)
            except (MMEdgeError, ValueError) as error:
                self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
            else:
                self._send_json(_plain(answer))

        def _is_own(self) -> bool:
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            own = {f"{name}:{server.server_port}" for name in ("127.0.0.1", "localhost")}
            if host in own and origin in (None, f"http://{host}"):
                return True
            self.close_connection = True
            error = f"host {host}, origin {origin}: expected {' or '.join(sorted(own))}"
            self._send_json({"error": error}, HTTPStatus.FORBIDDEN)
            return False

        def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:  # noqa: ANN401
            self._send(json.dumps(content).encode(), "application/json", status)

        def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Content-Security-Policy", policy),
                ("X-Content-Type-Options", "nosniff"),
                ("Cache-Control", "no-store"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the page shows what became of a request."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    return server


def _fields(request: Any) -> dict[str, str]:  # noqa: ANN401
    if (
        not isinstance(request, dict)
        or not all(isinstance(one, str) for one in request.values())
        or set(request) not in ({"picture", "text"}, {"picture", "voice"})
    ):
        raise InputError('expected an object of texts: "picture", and "text" or "voice"')
    return request


def _content(name: str, files: dict[str, Path]) -> bytes:
    """The bytes of a shipped file by its name, or of an upload as ``data:...;base64,...``."""
    if name in files:
        return files[name].read_bytes()
    head, comma, data = name.partition(";base64,")
    if not head.startswith("data:") or not comma:
        raise InputError(f"{name:.80}: no shipped file and no upload")
    return base64.b64decode(data, validate=True)


def _plain(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it; drawing and sound as PNG and WAV in ``data:`` URLs."""
    drawn = spoken = None
    if answer.picture is not None:
        buffer = io.BytesIO()
        Image.fromarray(answer.picture).save(buffer, "PNG")
        drawn = _data("image/png", buffer.getvalue())
    if answer.sound is not None:
        spoken = _data("audio/wav", write_voice(answer.sound))
    return {
        "request": answer.request,
        "text": answer.text,
        "ms": answer.ms,
        "facts": answer.facts,
        "in_time": answer.in_time,
        "picture": drawn,
        "sound": spoken,
    }


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
