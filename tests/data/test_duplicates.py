"""Copies among photos: what counts as one, what does not, and the hash behind it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mixfit.data.checks import photos as duplicates
from mixfit.data.checks.photos import PhotoScan, difference_hash, near_duplicates, scan_photos
from mixfit.data.photos.decode import ImageHeader
from mixfit.data.photos.records import RECORDS, Cache, list_stores


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Blurred noise with shapes on it; as in photos, no neighbouring pixels of pure red and blue."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, wide, high = rng.integers(0, 80, 4).tolist()
        draw.rectangle((x, y, x + wide, y + high), fill=tuple(rng.integers(60, 190, 3).tolist()))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pairs_of(scan: PhotoScan) -> list[list[int]]:
    pairs, unseen = near_duplicates(scan)
    assert unseen == ()
    return pairs.tolist()


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The photos that are decoded from now on."""
    decoded: list[object] = []
    read_image = duplicates.read_image

    def counting(source: Path | bytes, *, size: int) -> np.ndarray:
        decoded.append(source)
        return read_image(source, size=size)

    monkeypatch.setattr(duplicates, "read_image", counting)
    return decoded


def same(scan: PhotoScan, other: PhotoScan) -> bool:
    arrays = ("decoded", "content", "small", "hashes")
    return scan.problems == other.problems and all(
        np.array_equal(getattr(scan, name), getattr(other, name)) for name in arrays
    )


def test_equal_bytes_have_equal_numbers_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(picture(1)))
    scan = scan_photos([saved(picture(1)), saved(picture(2)), tmp_path / "a.png"])
    assert scan.content[0] == scan.content[2] != scan.content[1]
    assert pairs_of(scan) == []


@pytest.mark.parametrize(
    "again",
    [
        lambda image: saved(image, "JPEG", quality=60),
        lambda image: saved(image.resize((240, 180), Image.Resampling.BICUBIC)),
        lambda image: saved(image.resize((90, 67), Image.Resampling.BICUBIC), "JPEG", quality=85),
        lambda image: saved(image.point(lambda value: value * 0.99 + 3), "WEBP", quality=80),
    ],
    ids=["jpeg", "larger", "smaller jpeg", "brighter webp"],
)
def test_the_same_picture_saved_anew_is_found_among_others(again: object) -> None:
    assert callable(again)
    photos = [saved(picture(seed)) for seed in range(30)]
    scan = scan_photos([*photos, again(picture(7))])
    assert pairs_of(scan) == [[7, 30]]


def test_like_pictures_and_blank_ones_are_no_copies() -> None:
    other_colour, moved = picture(3), picture(3)
    ImageDraw.Draw(other_colour).rectangle((30, 20, 80, 70), fill=(250, 0, 0))
    moved = moved.transform(moved.size, Image.Transform.AFFINE, (1, 0, 12, 0, 1, 0))
    blank = [saved(Image.new("RGB", (50, 50), colour)) for colour in ((9, 9, 9), (10, 9, 9), (255, 255, 255))]
    photos = [saved(picture(3)), saved(other_colour), saved(moved), saved(picture(3).rotate(180)), *blank]
    assert pairs_of(scan_photos(photos)) == []


def test_no_pair_is_lost_or_made_up_by_the_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs are those of a plain loop over all."""
    rng = np.random.default_rng(0)
    photos = [saved(picture(seed)) for seed in range(12)]
    photos += [saved(picture(int(seed)), "JPEG", quality=int(q)) for seed, q in zip(rng.integers(0, 12, 10), rng.integers(5, 90, 10), strict=True)]  # fmt: skip  # noqa: E501
    scan = scan_photos(photos)
    values = scan.small.reshape(len(photos), -1).astype(np.float32)
    values = values - values.mean(axis=1, keepdims=True)
    expected = []
    for left in range(len(photos)):
        for right in range(left + 1, len(photos)):
            difference = np.sqrt(((values[left] - values[right]) ** 2).mean())
            correlation = np.corrcoef(values[left], values[right])[0, 1]
            bits = int(scan.hashes[left] ^ scan.hashes[right]).bit_count()
            if scan.content[left] != scan.content[right] and difference <= 4 and correlation >= 0.985 and bits <= 10:
                expected.append([left, right])
    monkeypatch.setattr(duplicates, "_BLOCK", 5)
    assert sorted(pairs_of(scan)) == expected
    assert len(expected) > 5


def test_the_hash_is_that_of_its_definition() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (72, 72, 3), dtype=np.uint8)
    bits = []
    for row in range(8):
        grey = [
            (photo[9 * row : 9 * row + 9, 8 * c : 8 * c + 8].mean(axis=(0, 1)) * [0.299, 0.587, 0.114]).sum()
            for c in range(9)
        ]
        bits += [grey[c + 1] > grey[c] for c in range(8)]
    expected = np.packbits(np.array(bits)).view(np.uint64)[0]
    assert difference_hash(photo) == expected


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    whole = saved(picture(1), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    scan = scan_photos([tmp_path / "none.jpg", tmp_path / "cut.jpg", whole, b"text"])
    assert scan.decoded.tolist() == [False, False, True, False]
    assert scan.content.tolist() == [0, 1, 2, 3]
    assert list(scan.problems) == [0, 1, 3]
    assert scan.problems[0] == "is missing"
    assert "truncated" in scan.problems[1]
    assert pairs_of(scan) == []


def test_only_an_even_share_is_decoded_when_all_would_take_many_minutes_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "_PIXEL_BUDGET", 10_000)
    scan = scan_photos([*[saved(Image.new("RGB", (40, 50)))] * 20, b"text"])
    assert np.flatnonzero(scan.decoded).tolist() == [3, 7, 11, 15, 19]
    assert list(scan.problems) == [20]
    assert scan.content.tolist() == [0] * 20 + [20], "equal bytes are found among all"
    pairs, (sentence,) = near_duplicates(scan)
    assert len(pairs) == 0
    assert sentence.startswith("nearly equal photos were looked for among 5 of 20 photos, to save time: copies among")


def test_thousands_of_large_photos_of_a_camera_are_all_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "image_header", lambda _: ImageHeader(4000, 3000, "JPEG", "RGB"))
    monkeypatch.setattr(duplicates, "read_image", lambda _, size: np.zeros((size, size, 3), dtype=np.uint8))
    monkeypatch.setattr(duplicates, "difference_hash", lambda _: np.uint64(0))
    monkeypatch.setattr(duplicates, "_PIXEL_BUDGET", duplicates._PIXEL_BUDGET / 5)  # as for 30,000 photos
    scan = scan_photos([b"%d" % number for number in range(6_000)])
    assert scan.decoded.all()
    assert near_duplicates(scan)[1] == ()


def test_a_second_scan_decodes_only_what_is_new_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        picture(seed).save(tmp_path / f"{seed}.jpg", quality=90)
    picture(3).save(tmp_path / "3-again.png")
    (tmp_path / "cut.png").write_bytes(saved(picture(9))[:-200])
    files: list[Path | bytes] = [*sorted(tmp_path.iterdir()), saved(picture(8))]
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9)
    expected = scan_photos(files)
    assert pairs_of(expected) == [[3, 4]]
    assert list(expected.problems) == [7]
    decoded = count_decoded(monkeypatch)
    assert same(scan_photos(files, cache), expected)
    assert len(decoded) == 9
    (store,) = list_stores(cache.folder)
    assert store.records == 9
    assert (store.folder / RECORDS).stat().st_size < 8 * 1000
    assert same(scan_photos(files, cache), expected)
    assert len(decoded) == 9, "nothing is decoded again, the damaged photo neither"
    picture(5).save(tmp_path / "0.jpg", quality=91)
    scan = scan_photos([*files, tmp_path / "5.jpg", saved(picture(10))], cache)
    assert decoded[9:] == [tmp_path / "0.jpg", saved(picture(10))]
    assert [0, 6] in pairs_of(scan)


def test_a_damaged_record_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [saved(picture(seed)) for seed in range(4)]
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9)
    expected = scan_photos(files, cache)
    records = list_stores(cache.folder)[0].folder / RECORDS
    data = bytearray(records.read_bytes())
    data[1500] ^= 1  # of the second photo
    records.write_bytes(data)
    decoded = count_decoded(monkeypatch)
    assert same(scan_photos(files, cache), expected)
    assert decoded == [files[1]]


@pytest.mark.parametrize("limit_bytes", [0, 10**9], ids=["no room", "no folder"])
def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    limit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    files = [saved(picture(seed)) for seed in range(4)]
    folder = tmp_path / "file" / "cache" if limit_bytes else tmp_path / "cache"
    cache = Cache(folder=folder, limit_bytes=limit_bytes)
    decoded = count_decoded(monkeypatch)
    assert same(scan_photos(files, cache), scan_photos(files))
    assert same(scan_photos(files, cache), scan_photos(files))
    assert len(decoded) == 16


def test_what_is_looked_at_does_not_depend_on_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [saved(picture(seed), "JPEG" if seed % 3 else "PNG") for seed in range(20)]
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9)
    scan_photos(files[5:14], cache)
    monkeypatch.setattr(duplicates, "_PIXEL_BUDGET", 40_000)
    expected = scan_photos(files)
    assert 3 < expected.decoded.sum() < 15
    for _ in range(2):
        assert same(scan_photos(files, cache), expected)


def test_a_search_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_photos([saved(picture(7), "JPEG", quality=quality) for quality in range(60, 80)])
    assert near_duplicates(scan)[1] == ()
    monkeypatch.setattr(duplicates, "_MOST_CANDIDATES", 50)
    monkeypatch.setattr(duplicates, "_BLOCK", 5)
    pairs, (sentence,) = near_duplicates(scan)
    assert sentence.startswith(
        "so many photos look alike that only 5 of 20 were compared with all others: copies among"
    )
    assert len(pairs) > 0


def test_no_photos_at_all() -> None:
    scan = scan_photos([])
    assert near_duplicates(scan)[0].shape == (0, 2)


def test_the_same_pairs_are_found_as_by_comparing_every_pair() -> None:
    rng = np.random.default_rng(0)
    basic = np.stack([np.asarray(picture(seed, (duplicates.SMALL, duplicates.SMALL))) for seed in range(40)])
    grain = rng.normal(size=(400, *basic.shape[1:])) * rng.uniform(0, 8, (400, 1, 1, 1))
    small = np.clip(basic[rng.integers(0, 40, 400)] + grain, 0, 255).astype(np.uint8)
    hashes = rng.integers(0, 2**12, 400).astype(np.uint64)
    pairs, _ = near_duplicates(PhotoScan({}, np.ones(400, dtype=bool), np.arange(400), small, hashes))
    values = small.reshape(400, -1).astype(float)
    values -= values.mean(axis=1, keepdims=True)
    apart = np.sqrt(((values[:, None] - values[None]) ** 2).mean(axis=2))
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    alike = (apart <= duplicates.LARGEST_DIFFERENCE) & (np.corrcoef(values) >= duplicates.LEAST_CORRELATION)
    expected = np.argwhere(np.triu(alike & (bits <= duplicates.MOST_BITS), k=1))
    assert 100 < len(expected) < 2_000
    assert sorted(pairs.tolist()) == sorted(expected.tolist())
