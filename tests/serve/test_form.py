"""The form: what people fill in is predicted as what programs send, without script and without other servers."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from served_runs import photos_of, png, rows_of, serving, with_base64
from starlette.testclient import TestClient

from mixfit.auto.recipe import Run
from mixfit.serve.service import Service


@pytest.fixture(scope="module")
def served(blend_run: Run) -> Iterator[tuple[TestClient, Service]]:
    with serving(blend_run.folder, batch=1, megapixels=0.1) as found:
        yield found


class Page(HTMLParser):
    """The elements of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def filled(service: Service, row: dict[str, Any]) -> dict[str, str]:
    """The fields of the form for a row."""
    facts = service.model(None).facts
    return {
        f"c{place}": "" if row[one.name] is None else str(row[one.name])
        for place, one in enumerate(facts)
        if one.role != "image"
    }


def photo_field(service: Service) -> str:
    """The name of the field of photos."""
    return next(f"c{place}" for place, one in enumerate(service.model(None).facts) if one.role == "image")


def test_a_filled_form_is_answered_as_the_api_does(served: tuple[TestClient, Service], demo_table: Path) -> None:
    client, service = served
    (row,) = rows_of(demo_table, [3])
    photos = photos_of(demo_table, row)
    assert len(photos) == 2
    files = [(photo_field(service), ("a.jpg", photo)) for photo in photos]
    answer = client.post("/?model=default", data=filled(service, row), files=files)
    assert answer.status_code == 200
    api = client.post("/predict", json={"row": with_base64(demo_table, row)}).json()["predictions"][0]
    shown = [f"{value:,.6g}" for value in (api["prediction"], api["interval"]["lower"], api["interval"]["upper"])]
    assert shown == re.findall(r"(?<=[> ])[\d,]+\.\d+(?= )(?! %)", answer.text.partition('id="moved"')[0])
    assert "With a probability of 90.0 % between" in answer.text
    assert 'value="Birchwood Pottery"' in answer.text  # what was written is kept
    again = client.post("/", data=dict.fromkeys(filled(service, row), ""), files=[(photo_field(service), ("", b""))])
    assert again.status_code == 200
    assert "Note: no photo." in again.text


def test_mistakes_are_told_on_the_page(served: tuple[TestClient, Service], demo_table: Path) -> None:
    client, service = served
    (row,) = rows_of(demo_table, [3])
    large = [(photo_field(service), ("a.png", png(1000, 1000)))]
    answer = client.post("/", data=filled(service, row), files=large)
    assert answer.status_code == 413
    assert 'role="alert"' in answer.text
    assert "1,000 x 1,000 pixels" in answer.text
    assert 'value="Birchwood Pottery"' in answer.text
    broken = client.post("/", data=filled(service, row | {"maker": "<script>x</script>", "height_cm": "tall"}))
    assert broken.status_code == 400  # not multipart
    told = client.post(
        "/",
        data=filled(service, row | {"maker": "<script>x</script>", "height_cm": "tall"}),
        files=[(photo_field(service), ("a.png", b"<svg/>"))],
    )
    assert told.status_code == 200
    assert "height_cm: not a number" in told.text
    assert "is a text file" in told.text
    assert "<script" not in told.text


def test_the_page_needs_no_script_and_nobody_else(served: tuple[TestClient, Service]) -> None:
    client, service = served
    page = Page(client.get("/").text)
    assert not page.all("script", "iframe", "img")
    links = [link["href"] for link in page.all("link", "a") if link["href"] != "data:,"]
    assert links
    assert all(link is not None and link.startswith("/") and not link.startswith("//") for link in links)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.found for name in attributes)
    style = client.get("/form.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text
    fields = page.all("input", "textarea")
    assert len(fields) == len(service.model(None).facts)
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {label["for"] for label in page.all("label")} == {one["id"] for one in fields}
    for one in fields:
        assert one.get("aria-describedby") in (None, *ids)
    assert {one["list"] for one in fields if "list" in one} == {one["id"] for one in page.all("datalist")}
    (photos,) = [one for one in fields if one.get("type") == "file"]
    assert "multiple" in photos
    assert page.all("html")[0]["lang"] == "en"
