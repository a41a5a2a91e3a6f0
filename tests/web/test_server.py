"""The server over real sockets: senders that lie or stall, and what comes through the web."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpcore2
import pytest
import uvicorn

from bsst.errors import InputError, OutputError, UsageError
from bsst.web.app import Settings, create_app
from bsst.web.fetch import PublicNetwork, fetched, url_name
from bsst.web.options import Limits
from bsst.web.server import serve
from bsst.web.store import JobStore

TOKEN = "a token of the tests"
FAKE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_child.py")))


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    limits = Limits(upload_bytes=20 * 10**9, idle_seconds=0.5)
    with JobStore(tmp_path / "jobs") as store, socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(store, Settings(token=TOKEN, plans={"packaged": None}, limits=limits), command=FAKE)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", http="h11", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def sent(port: int, length: int | str, body: bytes, *, leave: bool = False) -> bytes:
    head = f"POST /jobs?name=a.mp4 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: video/mp4\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        if leave:
            return b""
        connection.settimeout(10)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
            if b'"}' in answer:
                break
        return answer


def no_job_is_left(folder: Path) -> bool:
    for _ in range(200):
        if not list(folder.glob("job-*")):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("length", "status"), [(10 * 10**9, 408), (10**15, 413), (10**30, 400), (-1, 400), ("1e3", 400)],
    ids=["ten gigabytes that never come", "a petabyte", "more than a number holds", "negative", "no number"],
)  # fmt: skip
def test_a_lie_about_the_length_costs_neither_disk_nor_memory_nor_the_server(
    port: int, tmp_path: Path, length: int | str, status: int
) -> None:
    answer = sent(port, length, b"finish".ljust(1000))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert no_job_is_left(tmp_path / "jobs")
    assert b"201" in sent(port, 6, b"finish").split(b"\r\n")[0]


def test_a_sender_that_leaves_in_the_middle_leaves_nothing(port: int, tmp_path: Path) -> None:
    sent(port, 10**9, b"finish", leave=True)
    assert no_job_is_left(tmp_path / "jobs")


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    settings = Settings(token=TOKEN, plans={"packaged": None})
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OutputError, match="choose another --port"):
        serve(tmp_path, settings, port=taken.getsockname()[1], on_start=lambda port: None)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]",
     "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "2130706433", "0x7f.1", "224.0.0.1", "100.64.0.1"],
)  # fmt: skip
def test_no_url_leads_to_a_private_address(host: str) -> None:
    async def fetch() -> None:
        async with fetched(f"http://{host}:1/a.mp4"):
            pass

    with pytest.raises(UsageError, match="expected a public host"):
        anyio.run(fetch)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "https:///a", "http://example.org/", "a.mp4", ""])
def test_other_addresses_than_those_of_files_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected a URL"):
        url_name(url)


class Script(httpcore2.AsyncNetworkBackend):
    """Answers each connection with the next text."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        self.asked.append(f"{host}:{port}")
        return httpcore2.AsyncMockStream([self.answers.pop(0)])


def answered(*answers: bytes, network: httpcore2.AsyncNetworkBackend | None = None) -> tuple[int | None, bytes]:
    async def fetch() -> tuple[int | None, bytes]:
        async with fetched("http://93.184.216.34/go", network or Script(*answers)) as (size, chunks):
            return size, b"".join([chunk async for chunk in chunks])

    return anyio.run(fetch)


def redirect(place: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()


FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvideo"


def test_a_url_is_followed_to_its_file() -> None:
    assert answered(redirect("/clips/a.mp4"), FILE) == (5, b"video")


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1/a.mp4", "http://[::1]/a.mp4", "file:///etc/passwd", "gopher://a/b"]
)
def test_a_redirect_to_a_private_place_is_refused(place: str) -> None:
    script = Script(redirect(place), FILE)
    with pytest.raises(UsageError):
        answered(network=PublicNetwork(script))
    assert script.asked == ["93.184.216.34:80"]


@pytest.mark.parametrize(
    "answers",
    [[b"HTTP/1.1 404 Not Found\r\n\r\n"], [redirect("/go")] * 9, [b"no HTTP at all\r\n\r\n"],
     [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nvideo"]],
    ids=["missing", "a circle", "another protocol", "cut off"],
)  # fmt: skip
def test_an_answer_without_a_file_is_one_line(answers: list[bytes]) -> None:
    with pytest.raises(InputError, match="expected a video from"):
        answered(*answers)


def test_a_name_is_resolved_once_for_check_and_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **options: Any) -> list[Any]:
        assert host == "video.example"
        return [(2, 1, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    script = Script(FILE)

    async def fetch() -> None:
        async with fetched("http://video.example/a.mp4", PublicNetwork(script)):
            pass

    anyio.run(fetch)
    assert script.asked == ["93.184.216.34:80"]
