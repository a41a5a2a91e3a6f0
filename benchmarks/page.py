"""Picture of the page of `bsst web`, docs/page.jpg, taken of a real job: the demo clip, uploaded, restored, compared.

Needs playwright and Debian's chromium; minutes on two cores.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tests" / "data" / "city_blurry.mp4"
PICTURE = ROOT / "docs" / "page.jpg"
LARGEST = 150_000
HOUR = 3_600_000


def main() -> None:
    """Start the program as its user does, and drive the page."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bsst", "web", "--no-browser", "--folder", f"{folder}/jobs"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program, sync_playwright() as playwright:
            assert program.stdout is not None
            options = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
            page = browser.new_page(viewport={"width": 800, "height": 600}, color_scheme="light")
            page.goto(program.stdout.readline().strip())
            _restore(page)
            page.screenshot(path=PICTURE, full_page=True, type="jpeg", quality=82)
            browser.close()
            program.send_signal(signal.SIGINT)
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(ROOT)}: {size} bytes")
    if size > LARGEST:
        sys.exit(f"expected at most {LARGEST} bytes, got {size}; make the window smaller")


def _restore(page: Page) -> None:
    """Until the slider stands on the finished video."""
    page.locator("#file").set_input_files(CLIP)
    page.locator(".preview video").wait_for(timeout=HOUR)
    print("preview")
    compare = page.get_by_role("button", name="Compare before and after")
    compare.wait_for(timeout=HOUR)
    compare.click()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Position in the video").fill("0.4")
    page.get_by_label("Where before ends and after begins").fill("45")
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)


if __name__ == "__main__":
    main()
