"""The built-in example: simulated sales of hand-made vases, each a table row with zero, one or two drawn photos.

In: a folder, a number of rows and a seed. Out: ``table.csv`` and ``images/*.jpg``, identical for the same seed, and the
true components of every price, so that predictions and explanations can be compared with them.
Maker, material, size, age and date are only in the table; glaze, painted bands and cracks are only in the photos. A
crack ruins porcelain but hardly matters on earthenware: an interaction of photo and table.
``write_messy_demo`` writes vases like the export of a shop: texts, tags, currencies, units, a folder of photos per id.
Uses nothing of mixfit but its errors; numpy, pandas and Pillow are imported only when a function is called."""

import colorsys
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mixfit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import numpy
    import pandas
    import PIL.Image
    import PIL.ImageDraw

DEMO_TARGET = "price"
"""The column to predict, in euros."""


class _Maker(NamedTuple):
    share: float
    effect: float


class _Material(NamedTuple):
    share: float
    effect: float
    crack_cost: float


class _Glaze(NamedTuple):
    share: float
    effect: float
    colour: tuple[int, int, int]


_Kind = _Maker | _Material | _Glaze

# Effects and costs are on the scale of the log price: an effect of 0.10 raises the price by about 10 %, a cost of 1.20
# lowers it by 1 - exp(-1.20) = 70 %. Shares are probabilities.
MEDIAN_PRICE = 75.0
NOISE = 0.12
MAKERS = {
    "Aldous Fenn": _Maker(share=0.21, effect=-0.50),
    "Birchwood Pottery": _Maker(share=0.25, effect=-0.25),
    "Clara Voss": _Maker(share=0.22, effect=0.10),
    "Ines Okafor": _Maker(share=0.18, effect=0.40),
    "Tomoko Arai": _Maker(share=0.13, effect=0.75),
    "Studio Lind": _Maker(share=0.01, effect=0.30),
}
MATERIALS = {
    "earthenware": _Material(share=0.305, effect=-0.20, crack_cost=0.25),
    "porcelain": _Material(share=0.380, effect=0.40, crack_cost=1.20),
    "stoneware": _Material(share=0.305, effect=0.00, crack_cost=0.40),
    "bone china": _Material(share=0.010, effect=0.55, crack_cost=1.30),
}
GLAZES = {
    "ivory": _Glaze(share=0.2, effect=-0.50, colour=(238, 230, 208)),
    "honey": _Glaze(share=0.2, effect=-0.25, colour=(228, 160, 44)),
    "celadon": _Glaze(share=0.2, effect=0.05, colour=(104, 180, 134)),
    "oxblood": _Glaze(share=0.2, effect=0.30, colour=(180, 40, 40)),
    "cobalt": _Glaze(share=0.2, effect=0.60, colour=(36, 72, 190)),
}
MAX_BANDS, BAND_EFFECT = 3, 0.15
CRACKED_SHARE = 0.30
TYPICAL_HEIGHT, HEIGHT_SPREAD, HEIGHT_EFFECT = 28.0, 0.38, 0.90  # cm; effect per unit of log height
TYPICAL_AGE, AGE_EFFECT = 40.0, 0.007  # years; effect per year
FIRST_DAY, DAYS, YEAR_EFFECT = "2023-01-02", 1000, 0.06  # effect per year of the sale date
MISSING_SHARE, NO_PHOTO_SHARE, TWO_PHOTOS_SHARE = 0.02, 0.03, 0.35

FRONT, DETAIL = "_front.jpg", "_detail.jpg"
SIZE = 96  # pixels
SCALE = 3  # shapes are drawn larger by this factor and then downsampled, for smooth edges
SHAPES = {  # half widths at equal steps from rim to foot, relative to the largest
    "bottle": (0.36, 0.28, 0.28, 0.44, 0.84, 1.00, 0.98, 0.82, 0.58),
    "jar": (0.60, 0.62, 0.86, 0.98, 1.00, 0.96, 0.86, 0.72, 0.58),
    "tulip": (0.92, 0.70, 0.58, 0.66, 0.88, 1.00, 0.94, 0.70, 0.52),
    "amphora": (0.52, 0.40, 0.52, 0.86, 1.00, 0.94, 0.76, 0.54, 0.44),
}
INK, CREAM = (26, 24, 40), (250, 240, 214)


def write_demo(folder: Path, *, rows: int = 600, seed: int = 0) -> Path:
    """Write the example to ``folder/table.csv`` and ``folder/images/*.jpg``; return the path of the table.

    The columns are ``vase_id``, ``maker``, ``material``, ``height_cm``, ``age_years``, ``weight_kg``, ``listed_on`` (a
    date), ``photos`` (one path, two separated by ``;``, or empty) and ``price`` (euros). About 2 % of ``height_cm``,
    2 % of ``age_years`` and 3 % of ``photos`` are empty. The same arguments give identical files. Files that are
    already correct are not rewritten, an older example is overwritten, and nothing is deleted.

    Args:
        folder: created if missing.
        rows: number of vases, at least 1.
        seed: at least 0.

    Raises:
        ConfigError: ``rows`` or ``seed`` is too small, or ``folder`` has a ``table.csv`` that is not such an example.
        ResourceError: a file cannot be written."""
    truth = demo_truth(rows, seed)
    table = _observed_table(truth, seed)
    content = table.to_csv(index=False, lineterminator="\n").encode()
    path = folder / "table.csv"
    try:
        _refuse_foreign_table(path, header=content.partition(b"\n")[0])
        (folder / "images").mkdir(parents=True, exist_ok=True)
        looks = truth[list(_Look._fields)].itertuples(index=False, name=None)
        for row, (cell, look) in enumerate(zip(table["photos"].fillna(""), looks, strict=True)):
            for name in filter(None, cell.split(";")):
                photo = _draw_photo(_Look(*look), detail=name.endswith(DETAIL), key=(seed, row))
                _write_if_different(folder / name, _jpeg(photo))
        _write_if_different(path, content)  # last, so that a table never names photos that are not there yet
    except OSError as error:
        raise ResourceError(f"The example cannot be written to {folder}: {error}. Choose another folder.") from error
    return path


MESSY_ROWS = 300
TAGS = {"boxed": 0.15, "gift": 0.05, "vintage": 0.10, "handmade": 0.0, "restored": -0.25, "free returns": 0.0}
"""Tags of the messy example, and the effect of each on the log price."""
SIGNED = 0.20
"""Effect of a signature, which is only mentioned in the description."""
COUNTRIES = ("Denmark", "Germany", "Japan", "Nigeria", "United Kingdom")


def write_messy_demo(folder: Path, *, rows: int = MESSY_ROWS, seed: int = 0) -> Path:
    """Write vases like the export of a shop to ``folder/listings.csv`` and ``folder/photos/<id>/``; return the path.

    The table has free text, tags, lists, URLs, currencies, units, percentages, timestamps, missing-value markers and an
    empty column; there are up to five photos in a folder per id, some missing folders, and some system files in them.
    The same arguments give identical files.

    Arguments and errors as for ``write_demo``."""
    import numpy as np

    truth, rng = demo_truth(rows, seed), np.random.default_rng((seed, 5))
    table = _listings(truth, rng)
    content = table.to_csv(index=False, lineterminator="\n").encode()
    path = folder / "listings.csv"
    try:
        _refuse_foreign_table(path, header=content.partition(b"\n")[0])
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        looks = truth[list(_Look._fields)].itertuples(index=False, name=None)
        for row, (number, look) in enumerate(zip(table["listing_id"], looks, strict=True)):
            count = int(rng.integers(0, 6))
            if count == 0:
                continue
            place = folder / "photos" / str(number)
            place.mkdir(exist_ok=True)
            for photo in range(count):
                picture = _jpeg(_draw_photo(_Look(*look), detail=photo > 0, key=(seed, row * 8 + photo)))
                ending = (".jpg", ".JPG", ".jpeg", ".jfif", "")[row % 5]
                _write_if_different(place / f"IMG_{photo + 1}{ending}", picture)
            if row % 9 == 0:
                _write_if_different(place / "Thumbs.db", b"left behind")
            if row % 50 == 3:
                _write_if_different(place / "IMG_9.jpg", b"<html>404 Not Found</html>")
        _write_if_different(path, content)
    except OSError as error:
        raise ResourceError(f"The example cannot be written to {folder}: {error}. Choose another folder.") from error
    return path


def _listings(truth: "pandas.DataFrame", rng: "numpy.random.Generator") -> "pandas.DataFrame":
    """The table of the messy example."""
    import json

    import numpy as np
    import pandas as pd

    rows = len(truth)
    tagged = {tag: rng.random(rows) < 0.3 for tag in TAGS}
    signed = rng.random(rows) < 0.25
    price = np.exp(truth["log_price"] + sum(TAGS[tag] * has for tag, has in tagged.items()) + SIGNED * signed)
    tags = [[tag for tag, has in tagged.items() if has[row]] for row in range(rows)]
    number = 40_000 + rng.permutation(9 * rows)[:rows]
    new = (price * np.exp(0.3 * rng.standard_normal(rows)) * 2).to_numpy()
    minutes = pd.to_timedelta(rng.integers(0, 1440, rows), unit="min")
    table = pd.DataFrame(
        {
            "listing_id": number,
            "listing_url": [f"https://vases.example/rooms/{one}" for one in number],
            "title": [
                f"{look.capitalize()} by {maker}, no. {one}"
                for look, maker, one in zip(truth["shape"], truth["maker"], number, strict=True)
            ],
            "description": [
                f"A vase of {material}. {'Signed' if sign else 'No mark'} below the foot. Ask for no. {one}!"
                for material, sign, one in zip(truth["material"], signed, number, strict=True)
            ],
            "maker": truth["maker"],
            "material": truth["material"],
            "height": [f"{height:.1f} cm" for height in truth["height_cm"]],
            "age": [f"{age:.0f} years" for age in truth["age_years"]],
            "weight_kg": truth["weight_kg"],
            "tags": [", ".join(some) for some in tags],
            "ships_to": [
                json.dumps(sorted(rng.choice(COUNTRIES, rng.integers(1, 4), replace=False))) for _ in range(rows)
            ],
            "price_when_new": [f"${one:,.2f}" for one in new],
            "discount": [f"{one} %" for one in rng.integers(0, 40, rows)],
            "listed_at": (truth["listed_on"] + minutes).dt.strftime("%Y-%m-%d %H:%M"),
            "host_is_superhost": np.where(rng.random(rows) < 0.4, "t", "f"),
            "review_score": [f"{one:.1f}" if one < 4.9 else "n/a" for one in rng.uniform(3, 5, rows)],
            "license": "",
            "currency": "EUR",
            DEMO_TARGET: price.round(2),
        }
    )
    table["weight_kg"] = table["weight_kg"].mask(rng.random(rows) < MISSING_SHARE)
    return table


def demo_truth(rows: int = 600, seed: int = 0) -> "pandas.DataFrame":
    """The components of each price, for the rows of the example with the same arguments.

    ``base``, ``table_part``, ``photo_part``, ``interaction`` and ``noise`` sum to ``log_price``, the natural logarithm
    of the price in euros before rounding. In the population, the four components after ``base`` have mean 0 and are
    uncorrelated; given the complete table row only, the expected log price is ``base + table_part``; given the contents
    of the photo only, it is ``base + photo_part``. The other columns are the complete attributes: ``maker``,
    ``material``, ``height_cm``, ``age_years``, ``weight_kg``, ``listed_on`` (in the table), ``glaze``, ``bands``,
    ``cracked`` and ``shape`` (in the photo). ``shape`` has no effect, and ``weight_kg`` none beyond that of height.

    Raises:
        ConfigError: ``rows`` is below 1 or ``seed`` is below 0."""
    import numpy as np

    if rows < 1 or seed < 0:
        raise ConfigError(f"The example needs rows of at least 1 and a seed of at least 0, got {rows} and {seed}.")
    truth = _draw_attributes(rows, np.random.default_rng((seed, 0)))
    mean_cost = sum(material.share * material.crack_cost for material in MATERIALS.values())
    extra_cost = truth["material"].map({name: m.crack_cost - mean_cost for name, m in MATERIALS.items()})
    cracked = truth["cracked"] - CRACKED_SHARE
    years = (truth["listed_on"] - np.datetime64(FIRST_DAY)).dt.days / 365.25

    truth["base"] = math.log(MEDIAN_PRICE)
    truth["table_part"] = (
        _centred_effect(truth["maker"], MAKERS)
        + _centred_effect(truth["material"], MATERIALS)
        # The expected cost of a crack given the material only.
        - CRACKED_SHARE * extra_cost
        + HEIGHT_EFFECT * np.log(truth["height_cm"] / TYPICAL_HEIGHT)
        + AGE_EFFECT * (truth["age_years"] - TYPICAL_AGE)
        + YEAR_EFFECT * (years - (DAYS - 1) / 2 / 365.25)
    )
    truth["photo_part"] = (
        _centred_effect(truth["glaze"], GLAZES) + BAND_EFFECT * (truth["bands"] - MAX_BANDS / 2) - mean_cost * cracked
    )
    truth["interaction"] = -extra_cost * cracked
    truth["noise"] = NOISE * np.random.default_rng((seed, 1)).standard_normal(rows)
    truth["log_price"] = truth[["base", "table_part", "photo_part", "interaction", "noise"]].sum(axis=1)
    return truth


def demo_place(row: int, seed: int = 0, *, detail: bool = False, rows: int = 600) -> "numpy.ndarray":
    """Mask of the vase in a photo of the example, bool ``(SIZE, SIZE)``: the only region that is related to the price.

    ``rows`` and ``seed`` are those of the example; ``detail`` selects the second photo that a row may have."""
    import numpy as np

    look = _Look(*demo_truth(rows, seed).loc[row, list(_Look._fields)])
    body = _stand(look, np.random.default_rng((seed, row, 4 + detail)), detail=detail)
    return np.asarray(_silhouette(body, look.shape).reduce(SCALE)) >= 128


def _centred_effect(column: "pandas.Series", kinds: Mapping[str, _Kind]) -> "pandas.Series":
    """The effect of each row's level, minus the population mean."""
    mean = sum(kind.share * kind.effect for kind in kinds.values())
    return column.map({name: kind.effect - mean for name, kind in kinds.items()}).astype(float)


def _shares(kinds: Mapping[str, _Kind]) -> list[float]:
    return [kind.share for kind in kinds.values()]


def _draw_attributes(rows: int, rng: "numpy.random.Generator") -> "pandas.DataFrame":
    import numpy as np
    import pandas as pd

    height = np.exp(HEIGHT_SPREAD * rng.standard_normal(rows)).clip(0.4, 2.5) * TYPICAL_HEIGHT
    density = np.exp(0.15 * rng.standard_normal(rows))
    return pd.DataFrame(
        {
            "maker": rng.choice(list(MAKERS), size=rows, p=_shares(MAKERS)),
            "material": rng.choice(list(MATERIALS), size=rows, p=_shares(MATERIALS)),
            "height_cm": height.round(1),
            "age_years": rng.gamma(2.0, TYPICAL_AGE / 2, rows).round(),
            "weight_kg": (1.8 * density * (height / TYPICAL_HEIGHT) ** 2).round(2),
            "listed_on": pd.Timestamp(FIRST_DAY) + pd.to_timedelta(rng.integers(0, DAYS, rows), unit="D"),
            "glaze": rng.choice(list(GLAZES), size=rows, p=_shares(GLAZES)),
            "bands": rng.integers(0, MAX_BANDS + 1, rows),
            "cracked": rng.random(rows) < CRACKED_SHARE,
            "shape": rng.choice(list(SHAPES), size=rows),
        }
    )


def _observed_table(truth: "pandas.DataFrame", seed: int) -> "pandas.DataFrame":
    """The observed table: with an id, missing cells, photo paths instead of their contents, and a rounded price."""
    import numpy as np

    rng = np.random.default_rng((seed, 2))
    rows = len(truth)
    table = truth[["maker", "material", "height_cm", "age_years", "weight_kg", "listed_on"]].copy()
    ids = np.strings.zfill(np.arange(rows).astype(str), 4)
    table.insert(0, "vase_id", np.strings.add("V", ids))
    for column in ("height_cm", "age_years"):
        table[column] = table[column].mask(rng.random(rows) < MISSING_SHARE)
    table["age_years"] = table["age_years"].astype("Int64")
    front = np.strings.add(np.strings.add("images/vase", ids), FRONT)
    both = np.strings.add(np.strings.add(front, ";images/vase"), np.strings.add(ids, DETAIL))
    table["photos"] = np.where(rng.random(rows) < TWO_PHOTOS_SHARE, both, front)
    table["photos"] = table["photos"].mask(rng.random(rows) < NO_PHOTO_SHARE)
    table[DEMO_TARGET] = np.exp(truth["log_price"]).round(2)
    return table


def _refuse_foreign_table(path: Path, header: bytes) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.readline().rstrip() != header:
            raise ConfigError(f"{path} exists and is not an example of mixfit, so it is kept; choose another folder.")


def _write_if_different(path: Path, content: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == content):
        path.write_bytes(content)


def _jpeg(photo: "PIL.Image.Image") -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


class _Look(NamedTuple):
    """The attributes of a vase that a photo shows."""

    glaze: str
    bands: int
    cracked: bool
    shape: str


class _Body(NamedTuple):
    """Position and shape of a vase in the image; lengths in pixels of the enlarged drawing."""

    centre: float
    top: float
    height: float
    widest: float
    profile: tuple[float, ...]

    def edge(self, depth: float) -> tuple[float, float]:
        """Vertical position in the image and half width at ``depth``, 0 = rim and 1 = foot."""
        steps = len(self.profile) - 1
        left = min(int(depth * steps), steps - 1)
        part = depth * steps - left
        before, start = self.profile[max(left - 1, 0)], self.profile[left]
        end, after = self.profile[left + 1], self.profile[min(left + 2, steps)]
        # A Catmull-Rom curve: smooth, and through every point of the profile.
        bend = 2 * before - 5 * start + 4 * end - after + (3 * start - before - 3 * end + after) * part
        half = start + 0.5 * part * (end - before + part * bend)
        return self.top + depth * self.height, half * self.widest

    def ring(self, depth: float, tilt: float = 0.16) -> list[tuple[float, float]]:
        """The visible front half of the circle around the vase at ``depth``, from left to right."""
        y, half = self.edge(depth)
        angles = [math.pi * step / 16 for step in range(17)]
        return [(self.centre - half * math.cos(angle), y + tilt * half * math.sin(angle)) for angle in angles]


def _draw_photo(look: _Look, *, detail: bool, key: tuple[int, int]) -> "PIL.Image.Image":
    """One photo, RGB, ``SIZE`` x ``SIZE``; ``key`` seeds the irrelevant variation: position, light, background."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    room, rng = np.random.default_rng((*key, 3)), np.random.default_rng((*key, 4 + detail))
    full = SIZE * SCALE
    body = _stand(look, rng, detail=detail)
    wall = colorsys.hsv_to_rgb(room.random(), room.uniform(0.04, 0.28), room.uniform(0.60, 0.95))
    wood = colorsys.hsv_to_rgb(room.uniform(0.05, 0.11), room.uniform(0.2, 0.5), room.uniform(0.35, 0.75))
    scene = Image.new("RGB", (full, full), _rgb(wall))
    ImageDraw.Draw(scene).rectangle((0, full * rng.uniform(0.68, 0.80), full, full), fill=_rgb(wood))

    foot, half = body.edge(1.0)
    light = rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 0.8)
    shadow = Image.new("L", (SIZE, SIZE))
    reach = [(body.centre + half * (side - 0.9 * light)) / SCALE for side in (-1.5, 1.5)]
    ImageDraw.Draw(shadow).ellipse((reach[0], foot / SCALE - 5, reach[1], foot / SCALE + 6), fill=150)

    mask = _silhouette(body, look.shape)
    paint = Image.new("RGB", (full, full), GLAZES[look.glaze].colour)
    _draw_decoration(ImageDraw.Draw(paint), body, look, rng)
    mask, paint, scene = mask.reduce(SCALE), paint.reduce(SCALE), scene.reduce(SCALE)
    scene = Image.composite(Image.new("RGB", (SIZE, SIZE)), scene, shadow.filter(ImageFilter.GaussianBlur(3)))
    return Image.composite(_lit(paint, body, light, rng), _vignette(scene, rng), mask)


def _stand(look: _Look, rng: "numpy.random.Generator", *, detail: bool) -> _Body:
    """Position and shape of the vase in a photo."""
    full, zoom = SIZE * SCALE, 1.45 if detail else 1.0
    height = full * zoom * rng.uniform(0.66, 0.80)
    return _Body(
        centre=full * rng.uniform(0.43, 0.57),
        top=full * rng.uniform(0.50, 0.54) - height / 2,
        height=height,
        widest=full * zoom * rng.uniform(0.24, 0.29),
        profile=SHAPES[look.shape],
    )


def _rgb(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue


def _silhouette(body: _Body, shape: str) -> "PIL.Image.Image":
    """A mask with 255 inside the vase, at the size of the enlarged drawing."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (SIZE * SCALE, SIZE * SCALE))
    draw = ImageDraw.Draw(mask)
    edges = [body.edge(step / 48) for step in range(49)]
    left = [(body.centre - half, y) for y, half in edges]
    right = [(body.centre + half, y) for y, half in reversed(edges)]
    draw.polygon([*left, *body.ring(1.0), *right], fill=255)
    y, half = body.edge(0.0)
    draw.ellipse((body.centre - half, y - 0.16 * half, body.centre + half, y + 0.16 * half), fill=255)
    if shape == "amphora":
        for side in (-1, 1):
            centre, reach = body.centre + side * 0.62 * body.widest, 0.40 * body.widest
            box = (centre - reach, body.top + 0.06 * body.height, centre + reach, body.top + 0.42 * body.height)
            draw.ellipse(box, outline=255, width=round(0.11 * body.widest))
    return mask


def _draw_decoration(draw: "PIL.ImageDraw.ImageDraw", body: _Body, look: _Look, rng: "numpy.random.Generator") -> None:
    """Draw bands, crack and mouth in flat colours; they may exceed the vase, because the silhouette masks them."""
    for band in range(look.bands):
        depth = 0.46 + 0.15 * band
        thick = 0.075 * body.height
        for colour, share in ((INK, 1.0), (CREAM, 0.45)):
            draw.line(body.ring(depth), fill=colour, width=max(1, round(share * thick)), joint="curve")
    if look.cracked:
        depths = [0.0, 0.12, 0.24, 0.36, 0.48, 0.60, 0.74]
        start, side = rng.uniform(-0.25, 0.25), rng.choice([-1.0, 1.0])
        points = []
        for step, depth in enumerate(depths):
            y, half = body.edge(depth)
            swing = side * (0.30 if step % 2 else -0.30) + rng.uniform(-0.1, 0.1)
            points.append((body.centre + half * (start + swing), y + 0.14 * half))
        for colour, width in ((CREAM, 0.13), (INK, 0.085)):
            draw.line(points, fill=colour, width=round(width * body.widest), joint="curve")
    y, half = body.edge(0.0)
    for colour, share in ((CREAM, 1.0), (INK, 0.86)):
        box = (body.centre - share * half, y - share * 0.16 * half, body.centre + share * half, y + share * 0.16 * half)
        draw.ellipse(box, fill=colour)


def _lit(paint: "PIL.Image.Image", body: _Body, light: float, rng: "numpy.random.Generator") -> "PIL.Image.Image":
    """Shade the flat paint like a cylinder that is lit from one side, with a highlight on the glaze."""
    import numpy as np
    from PIL import Image

    pixels = (np.arange(SIZE) + 0.5) * SCALE
    depths = ((pixels - body.top) / body.height).clip(0.0, 1.0)
    half = np.array([body.edge(float(depth))[1] for depth in depths])[:, None]
    across = ((pixels[None, :] - body.centre) / half).clip(-1.0, 1.0)
    toward = np.sqrt(1.0 - across**2)
    front = math.sqrt(1.0 - light**2)
    facing = (light * across + front * toward).clip(0.0, 1.0)
    brightness = rng.uniform(0.9, 1.1) * (0.42 + 0.68 * facing)
    shine = 90.0 * facing**24 * np.exp(-(((depths - 0.42) / 0.22) ** 2))[:, None]
    colours = np.asarray(paint, dtype=np.float32) * brightness[..., None] + shine[..., None]
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def _vignette(scene: "PIL.Image.Image", rng: "numpy.random.Generator") -> "PIL.Image.Image":
    """Darken the background with the distance from a bright spot."""
    import numpy as np
    from PIL import Image

    place = np.linspace(-1.0, 1.0, SIZE)
    distance = (place[None, :] - rng.uniform(-0.6, 0.6)) ** 2 + (place[:, None] - rng.uniform(-0.8, 0.0)) ** 2
    colours = np.asarray(scene, dtype=np.float32) * (rng.uniform(0.95, 1.08) - 0.11 * distance)[..., None]
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))
