"""`elm serve` as its users have it: a process, and a browser that draws with it and reaches nothing but it."""

import base64
import io
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from browser import open_page
from command_line import elm
from PIL import Image
from playwright.sync_api import Page, expect

# Keeps every picture that the page shows, and says which of them were of unfinished drawings.
WATCH = """() => {
    window.shown = [];
    new MutationObserver(() => {
        const drawing = document.querySelector(".elm-drawing");
        const pictures = [...document.querySelectorAll(".elm-drawing img")].map(image => image.src);
        if (drawing) window.shown.push([drawing.classList.contains("elm-finished"), pictures]);
    }).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The process of `elm serve`, and the address that it says."""
    command = [sys.executable, "-m", "elm_dist", "serve", str(trained)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith(f"{trained} is at http://127.0.0.1:"), said or process.communicate()[1]
        yield psutil.Process(process.pid), said.split()[-4].rstrip(";")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode == 0, "Ctrl-C is how it is ended"


@pytest.fixture(scope="module")
def page(server: tuple[psutil.Process, str]) -> Iterator[Page]:
    with open_page(server[1]) as page:
        yield page


def pixels(address: str) -> np.ndarray:
    """Return the pixels of a picture that stands in the page itself."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_pictures_appear_while_they_are_drawn_and_are_those_of_the_command(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = page.get_by_label("Classes").first
    classes.click()
    page.get_by_role("option").nth(2).click()
    classes.press("Escape")
    page.get_by_label("Seed").fill("7")
    page.evaluate(WATCH)
    press(page, "Draw")
    expect(page.locator(".elm-finished img")).to_have_count(16)  # 8 of each of two classes
    page.screenshot(path=tmp_path / "page.png")
    shown = page.evaluate("window.shown")
    (_, first), (is_finished, last) = shown[0], shown[-1]
    assert not shown[0][0]
    assert is_finished
    assert (pixels(first[0])[-8:] == 228).all(), "the last row of codes was not drawn yet"
    command = page.locator(".elm-command textarea").input_value()
    monkeypatch.chdir(tmp_path)
    assert elm(*shlex.split(command)[1:]).code == 0
    files = sorted((tmp_path / "samples").rglob("*/*.png"), key=lambda path: (path.name, path.parent.name))
    assert len(files) == len(last)
    for path, picture in zip(files, last, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), pixels(picture))


def test_a_wrong_number_is_answered_with_a_sentence(page: Page) -> None:
    page.get_by_label("Top-p").fill("3")
    press(page, "Draw")
    expect(page.locator(".elm-wrong")).to_contain_text("sampling.top_p: 3 is not allowed; give at most 1")
    expect(page.locator(".elm-drawing")).to_have_count(0)
    expect(page.get_by_text("Traceback")).to_have_count(0)
    page.get_by_label("Top-p").fill("1")


def test_a_drawing_can_be_stopped(page: Page) -> None:
    page.get_by_role("tab", name="Expand").click()
    for label, number in {"Pictures of each": 32, "Height in pixels": 128, "Width in pixels": 128}.items():
        page.get_by_label(f"number input for {label}").fill(str(number))
    press(page, "Expand")
    expect(page.locator(".elm-unfinished img")).to_have_count(32)
    page.locator("button:visible", has_text="Stop").click()
    share = page.locator(".elm-progress div").get_attribute("style")
    page.get_by_role("tab", name="Interpolate").click()
    expect(page.locator(".elm-unfinished .elm-progress div")).to_have_attribute("style", share or "")
    press(page, "Interpolate")  # would wait for the end of the other
    expect(page.locator(".elm-finished img")).to_have_count(14)


def test_only_this_machine_is_asked_and_answered(server: tuple[psutil.Process, str], page: Page) -> None:
    process, address = server
    listening = [socket for socket in process.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
    assert {socket.laddr.ip for socket in listening} == {"127.0.0.1"}
    asked: set[str | None] = set()
    errors: list[str] = []
    page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.reload()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert asked <= {urlsplit(address).hostname, None}  # None: what stands in the page itself
    assert not errors


def test_a_name_of_somebody_else_is_not_answered(server: tuple[psutil.Process, str], page: Page) -> None:
    answer = page.request.get(server[1], headers={"Host": "elsewhere.example"})
    assert answer.status == 400
