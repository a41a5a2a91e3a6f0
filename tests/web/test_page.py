"""The page in a real browser; a fake process restores, the server is real."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsst.runtime.video.quality import DEFAULT_CRF
from tests.media import Clip

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the path, which is not here"),
]
PROGRAM = """
import sys
from pathlib import Path
from bsst.web.app import Settings
from bsst.web.server import serve
folder, token, port, child, barrier = sys.argv[1:]
settings = Settings(token=token, plans={"packaged": None, "other": None}, files=True)
serve(Path(folder), settings, port=int(port), on_start=lambda port: print(port, flush=True),
      command=(sys.executable, "-I", "-S", child, barrier))
"""
CHILD = Path(__file__).with_name("fake_child.py")
SECONDS = 60_000
"""Milliseconds that a step may take on a busy machine."""


class Server:
    """The server in a process, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.barrier = folder.with_name("barrier")
        """While it is there, jobs wait half done, however long the browser takes to look."""

    def start(self, token: str) -> None:
        arguments = map(str, (self.folder, token, self.port, CHILD, self.barrier))
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.address = f"http://127.0.0.1:{self.port}"
        self.page = f"{self.address}/#token={token}"

    def end(self, how: int) -> None:
        self.process.send_signal(how)
        assert self.process.wait(60) == (0 if how == signal.SIGINT else -how)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("web") / "jobs")
    server.start("the first token of all")
    yield server
    server.end(signal.SIGINT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(color_scheme="dark", accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    page.complaints, page.foreign = [], []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda line: page.complaints.append(line.text) if "Content Security" in line.text else None)
    page.on("request", lambda sent: None if sent.url.startswith(server.address) else page.foreign.append(sent.url))
    page.on("dialog", lambda dialog: dialog.accept())
    yield page
    assert page.complaints == []
    assert [url for url in page.foreign if not url.startswith("data:")] == []
    context.close()


def until(page: Any, condition: str) -> None:
    """As wait_for_function, which evaluates text in the page: its policy forbids that."""
    for _ in range(SECONDS // 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip(times=tuple(range(0, 75 * 512, 512))).write(tmp_path_factory.mktemp("clip") / "street & <b>park")


def test_a_chosen_file_is_sent_restored_compared_on_the_playing_video_and_downloaded(
    page: Any, server: Server, clip: Path, tmp_path: Path
) -> None:
    server.barrier.touch()
    page.goto(server.page)
    assert page.evaluate("location.hash") == ""
    page.get_by_label("Plan").select_option("other")
    page.get_by_label("Quality").select_option(label="Lossless, very large")
    page.get_by_label("From").fill("0.4")
    page.get_by_label("Format").select_option("mp4")
    page.locator("#file").set_input_files(clip)
    job = page.locator("article").filter(has_text="street & bpark.mp4")
    expect(job.locator(".text")).to_have_text(re.compile(r"\d+ of 40 frames, 25.00 a second, 0:0\d left"))
    expect(job.get_by_role("progressbar")).to_have_attribute("max", "40")
    server.barrier.unlink()
    expect(job.locator(".state")).to_have_text("done")
    expect(job.locator(".warnings li")).to_have_text("goes on at step 0")
    chosen = {
        "plan": "other",
        "lossless": True,
        "crf": DEFAULT_CRF,
        "format": "mp4",
        "start": "0.4",
        "end": "",
        "preview": False,
    }
    assert page.evaluate("async () => (await ask('GET', '/jobs'))[0].options") == chosen

    job.get_by_role("button", name="Compare before and after").click()
    again = "Object.assign(document.querySelector('.after'), {loop: true}).play().catch(() => {})"
    page.evaluate(again)  # three seconds may be over by now
    until(page, "document.querySelector('.after').currentTime > 0.3")
    both = "['before', 'after'].map((name) => document.querySelector(`.${name}`).currentTime)"
    until(page, f"(([before, after]) => Math.abs(before - after - 0.4) < 0.35)({both})")  # sooner or later, if busy
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Position in the video").fill("0.5")
    until(page, f"(([before, after]) => Math.abs(before - after - 0.4) < 0.002)({both})")
    split = page.get_by_label("Where before ends and after begins")
    split.focus()
    split.press("Home")
    clipped = "getComputedStyle(document.querySelector('.before')).clipPath"
    assert "100%" in page.evaluate(clipped)
    box = split.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    assert float(re.findall(r"[\d.]+", page.evaluate(clipped))[1]) == pytest.approx(25, abs=5)
    with page.expect_download() as downloading:
        job.get_by_role("link", name="Download").click()
    downloading.value.save_as(tmp_path / "result")
    assert (tmp_path / "result").read_bytes() == clip.read_bytes()
    assert downloading.value.suggested_filename.endswith(".deblurred.mp4")
    job.get_by_role("button", name="Remove").click()
    expect(page.locator("article")).to_have_count(0)


def test_a_dropped_file_shows_its_blurriest_second_is_cancelled_and_goes_on_where_it_was(
    page: Any, server: Server, clip: Path
) -> None:
    server.barrier.touch()
    page.goto(server.page)
    data = page.evaluate_handle(
        """async (path) => {
            const bytes = Uint8Array.from(atob(path), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
            data.items.add(new File([bytes], "dropped.mp4", { type: "video/mp4" }));
            return data;
        }""",
        base64.b64encode(clip.read_bytes()).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    job = page.locator("article").filter(has_text="dropped.mp4")
    expect(job.locator(".text")).to_have_text(re.compile("^[0-9]+ of 40 frames"))
    until(page, "document.querySelector('.preview video').currentTime > 0")
    expect(job.locator(".preview")).to_contain_text("The blurriest second: before on the left, after on the right")
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator(".state")).to_have_text("cancelled")
    expect(job.get_by_role("link", name="Download")).to_be_hidden()
    server.barrier.unlink()
    job.get_by_role("button", name="Go on").click()
    expect(job.locator(".state")).to_have_text("done")
    expect(job.locator(".warnings li")).to_have_text(re.compile("goes on at step [1-9]"))
    expect(job.locator(".preview")).to_be_hidden()
    job.get_by_role("button", name="Remove").click()
    expect(job).to_have_count(0)


def test_a_killed_server_is_told_apart_and_its_queue_goes_on_when_it_is_started_again(
    page: Any, server: Server, clip: Path
) -> None:
    server.barrier.touch()
    page.goto(server.page)
    for _ in range(2):
        page.get_by_label("or name").fill(str(clip))
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_label("or name")).to_have_value("")
    expect(page.locator("article .text").last).to_have_text(re.compile("of 40 frames"))
    server.end(signal.SIGKILL)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    server.start("another token than before")
    server.barrier.unlink()
    expect(page.get_by_role("alert")).to_contain_text("Open the address")
    page.goto(server.page)
    expect(page.locator("article .state").first).to_have_text("done")
    expect(page.locator("article .state").last).to_have_text("done")
    expect(page.locator("article .warnings li").last).to_have_text(re.compile("goes on at step [1-9]"))
    for _ in range(2):
        page.get_by_role("button", name="Remove").first.click()
    expect(page.locator("article")).to_have_count(0)
    assert clip.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_wrong_token_shows_one_line_and_nothing_else(page: Any, server: Server, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{server.address}/#token=wrong")
    expect(page.get_by_role("alert")).to_contain_text("open the address that the server printed")
    expect(page.locator("main")).to_be_hidden()
    rgb = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", rgb))) > 128) == (scheme == "light")


def test_wrong_input_is_one_line_on_the_page_and_no_path_leads_out(page: Any, server: Server, clip: Path) -> None:
    page.goto(server.page)
    add = page.get_by_role("button", name="Add", exact=True)
    for name, words in (("", "full path of a video"), ("clip.mp4", "a relative name"), ("/etc", "got a folder")):
        page.get_by_label("or name").fill(name)
        add.click()
        expect(page.get_by_role("alert")).to_contain_text(words)
    page.get_by_label("To", exact=True).fill("soon")
    page.locator("#file").set_input_files(clip)
    expect(page.get_by_role("alert")).to_contain_text("expected a time")
    found = page.evaluate(
        "async (paths) => Promise.all(paths.map(async (path) => (await fetch(withToken(path))).status))",
        ["/jobs/..%2f..%2f..%2fetc%2fpasswd/source", "/jobs/%2e%2e/result", "/../../etc/passwd", "/%2e%2e/app.py"],
    )
    assert found == [404, 404, 404, 404]
    expect(page.locator("article")).to_have_count(0)
