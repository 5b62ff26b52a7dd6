"""How far are the JPEG pixels of Chromium from those of Pillow, and the predictions of a page with them?

The page of ``mixfit export --to html`` decodes the photos of some rows in headless Chromium, and ``read_for_size``
decodes the same files. Prints the bytes that differ and by how much: of photos that both decode at their full size, of
those that Pillow decodes at a part of it, and of all once they are resized for the network. Then how far predictions of
the file with either pixels are apart, in standard deviations of the predictions or in probabilities.
Run: python benchmarks/check_jpeg.py PAGE TABLE [ROWS]
PAGE is the folder that ``mixfit export RUN --to html`` wrote. Wanted are Playwright and a Chromium on the PATH."""

import base64
import shutil
import sys
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.decode import read_for_size
from mixfit.data.photos.find import find_photos
from mixfit.data.table.read import read_table
from mixfit.export.onnx_predict import OnnxModel

DECODE = """async ([text, size]) => {
    const file = new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], "photo.jpg");
    const { pixels, width, height } = await pixelsOf(file, size);
    let found = "";
    for (let start = 0; start < pixels.length; start += 32768) {
        found += String.fromCharCode(...pixels.subarray(start, start + 32768));
    }
    return [btoa(found), height, width];
}"""


def in_chromium(page: Any, source: PhotoSource, size: int) -> np.ndarray:
    """Pixels as the page has them."""
    assert isinstance(source, Path)
    found, height, width = page.evaluate(DECODE, [base64.b64encode(source.read_bytes()).decode(), size])
    return np.frombuffer(base64.b64decode(found), dtype=np.uint8).reshape(height, width, 3)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """As the file resizes them, squashed."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def say(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Print how pixels differ."""
    if not pairs:
        return
    apart = np.concatenate([np.abs(one.astype(int) - other).ravel() for one, other in pairs])
    print(
        f"  {name}: {len(pairs)} photos, {(apart > 0).mean():.2%} of the bytes differ, by {apart.mean():.3f} of 255 in "
        f"the mean and {apart.max()} at most"
    )


def main() -> None:
    """Compare."""
    folder, path = map(Path, sys.argv[1:3])
    rows = int(sys.argv[3]) if sys.argv[3:] else 32
    model = OnnxModel.load(folder / "model.onnx", threads=1)
    frame = read_table(path)
    table = model.schema.table(frame.iloc[np.linspace(0, len(frame) - 1, rows).astype(int)])
    photos = find_photos(
        table.frame.reset_index(drop=True), model.schema.names("image"), path.parent, model.schema.photos, absent=True
    )
    size = int(model.meta["photos"]["size"])
    ours = {source: read_for_size(source, size) for source in photos.files}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"Chromium {browser.version}, Pillow {Image.__version__}: {rows} rows, photos for {size} pixels")
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto((folder / "index.html").as_uri())
        page.wait_for_function("typeof pixelsOf === 'function'")
        theirs = {source: in_chromium(page, source, size) for source in photos.files}
        browser.close()
    jpeg = [one for one in photos.files if isinstance(one, Path) and one.read_bytes()[:2] == b"\xff\xd8"]
    whole = [one for one in jpeg if Image.open(BytesIO(one.read_bytes())).size[::-1] == ours[one].shape[:2]]
    say("JPEG at its full size", [(ours[one], theirs[one]) for one in whole])
    say("JPEG at a part of its size", [(ours[one], theirs[one]) for one in jpeg if one not in whole])
    say("JPEG, resized", [(resized(ours[one], size), resized(theirs[one], size)) for one in jpeg])
    found, wanted = (model.rows(table, photos, read=partial(dict.__getitem__, one)) for one in (theirs, ours))
    if model.meta["classes"] is None:
        values = [one.outputs["prediction"][:, None] for one in (found, wanted)]
        spread, unit = float(values[1].std()), "standard deviations of the predictions"
    else:
        values = [one.outputs["probabilities"] for one in (found, wanted)]
        spread, unit = 1.0, "probabilities"
    apart = np.abs(values[0] - values[1]).max(axis=1) / spread
    print(f"  predictions differ by {np.median(apart):.1e} in the median row and {apart.max():.1e} at most ({unit})")


if __name__ == "__main__":
    main()
