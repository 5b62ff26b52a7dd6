"""The form in a browser: filled by hand with photos, at the widths of a phone and of a desk, without script, and for a
screen reader."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

import uvicorn
from in_browser import WIDER, assert_no_fault_for_screen_readers, axe, browser, needs_chromium
from served_runs import png

from mixfit.auto.recipe import Run
from mixfit.serve.app import make_app
from mixfit.serve.load import load_model
from mixfit.serve.protocol import server_config
from mixfit.serve.service import Service
from mixfit.serve.settings import ServeSettings

__all__ = ["browser"]  # a fixture
pytestmark = needs_chromium

WIDTHS = (pytest.param(390, id="phone"), pytest.param(1280, id="desk", marks=pytest.mark.long))


@pytest.fixture(scope="module")
def address(quick_run: Run, class_run: Run) -> Iterator[str]:
    """A server of two models in a thread."""
    settings = ServeSettings(batch=1, megapixels=1.0)
    runs = {"vases": quick_run.folder, "classes": class_run.folder}
    service = Service({name: load_model(name, run, level=0.9) for name, run in runs.items()}, settings)
    config = server_config(make_app(service), host="127.0.0.1", port=0, timeout=30.0, connections=64)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not (server.started and service.ready):
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the form; a complaint of the browser, or a request to anybody else, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(width: int, *, scheme: str = "light", script: bool = False, model: str = "vases") -> Any:
        size = {"width": width, "height": 900}
        contexts.append(
            browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=script, bypass_csp=script)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(f"{address}?model={model}")
        return page

    yield opened
    for context in contexts:
        context.close()
    own = (address, "data:image/png;base64,")
    refused = "Failed to load resource: the server responded with a status of 413"
    assert [line for line in complaints if not line.startswith((*own, refused))] == []


def send(page: Any) -> None:
    """Until the answer is there, whole: a click alone may return while the page is still that of before, or none."""
    with page.expect_navigation(wait_until="load"):
        page.get_by_role("button", name="Predict").click()


def fill(page: Any, photos: list[Path]) -> None:
    """As a person does who reads the labels."""
    page.get_by_label("maker").fill("Birchwood Pottery")
    page.get_by_label("height_cm").fill("31")
    page.get_by_label("listed_on").fill("2024-05-02")
    page.get_by_label("photos").set_input_files(photos)
    send(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_without_script_a_filled_form_is_answered(
    width: int, visit: Callable[..., Any], demo_table: Path, tmp_path: Path
) -> None:
    page = visit(width)
    photos = sorted((demo_table.parent / "images").glob("*.*"))[:2]
    fill(page, photos)
    assert page.title() == "Prediction of price"
    assert float(page.locator(".value").inner_text().replace(",", "")) > 0
    moved = page.get_by_role("region", name="What moved it")
    assert moved.get_by_role("row").count() == 8  # a head and seven columns
    assert "compared with 32 typical training rows" in moved.inner_text().lower()
    pictures = moved.get_by_role("img", name="Photo")
    assert pictures.count() == 2
    assert page.get_by_label("maker").input_value() == "Birchwood Pottery"
    assert page.locator("html").bounding_box()["width"] <= width
    page.screenshot(path=tmp_path / f"answer-{width}.png", full_page=True)


@pytest.mark.parametrize("width", WIDTHS)
def test_mistakes_are_told_at_the_top(width: int, visit: Callable[..., Any], tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(png(1200, 1200))
    page = visit(width)
    fill(page, [large])
    alert = page.get_by_role("alert")
    assert "1,200 x 1,200 pixels" in alert.inner_text()
    assert alert.bounding_box()["y"] < 300
    assert page.get_by_label("height_cm").input_value() == "31"
    page.screenshot(path=tmp_path / f"error-{width}.png", full_page=True)


@pytest.mark.parametrize(
    ("width", "scheme", "model"),
    [
        (390, "light", "vases"),
        (1280, "dark", "classes"),
        pytest.param(1280, "dark", "vases", marks=pytest.mark.long),
        pytest.param(390, "light", "classes", marks=pytest.mark.long),
    ],
)
def test_nothing_is_wider_than_the_page_and_a_screen_reader_can_use_it(
    width: int, scheme: str, model: str, visit: Callable[..., Any], demo_table: Path, tmp_path: Path
) -> None:
    script, page = axe(), visit(width, scheme=scheme, script=True, model=model)
    for _ in range(2):  # empty, and answered
        assert page.evaluate(WIDER) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].filter(one => !one.naturalWidth).length") == 0
        assert_no_fault_for_screen_readers(page, script)
        send(page)
    assert page.get_by_role("region", name="What moved it").count() == 1
