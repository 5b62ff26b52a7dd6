"""``mixfit cache``: the cache of decoded photos, image features and text embeddings."""

from pathlib import Path
from typing import Annotated

from mixfit.cli.flags import Switch
from mixfit.errors import ResourceError


def cache(*, clear: Annotated[bool, Switch] = False, cache: Path | None = None) -> None:
    """Show or clear the cache of decoded photos, image features and text embeddings.

    Parameters
    ----------
    clear
        Clear the cache; its contents are recomputed when needed.
    cache
        The cache folder; by default MIXFIT_CACHE or the user's cache folder.
    """
    from mixfit.data.photos.records import clear as remove
    from mixfit.data.photos.records import default_folder, list_stores

    folder = default_folder() if cache is None else cache
    stores, kept = remove(folder) if clear else (list_stores(folder), [])
    print(f" {folder}{'   cleared:' if clear else ''}")
    for store in stores:
        kind = "texts" if store.folder.name.startswith("texts-") else "photos"
        print(f"   {store.folder.name:<52}{store.records:>10,} {kind:<6}{store.bytes / 1e6:>12,.1f} MB")
    print(f"   {len(stores)} stores, {sum(store.bytes for store in stores) / 1e6:,.1f} MB")
    if kept:
        raise ResourceError(f"{len(kept)} of the stores are in use and were kept, the first is {kept[0].folder.name}.")
