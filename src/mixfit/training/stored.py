"""Features that ``mixfit embed`` stored: whether they are those of a network."""

from mixfit.choices import Crop
from mixfit.data.photos.shards import StoredFeatures
from mixfit.errors import ConfigError
from mixfit.nn.image import ImageEncoder
from mixfit.training.build import network_digest


def check_stored(stored: StoredFeatures, encoder: ImageEncoder, *, size: int, crop: Crop) -> None:
    """Refuse stored features that are not those of a frozen image network.

    Raises:
        ConfigError: they are of another network, image size or crop.
    """
    facts = stored.facts
    if (facts.image_size, facts.crop) != (size, crop):
        raise ConfigError(
            f"{stored.folder.shown} has features of photos of {facts.image_size} pixels with crop {facts.crop}, not of "
            f"{size} pixels with crop {crop}: run mixfit embed with --image-size {size} --crop {crop}."
        )
    if facts.network != network_digest(encoder, size):
        raise ConfigError(
            f"{stored.folder.shown} has features of another image network: run mixfit embed with the same --backbone, "
            "--backbone-weights and --photo-stages."
        )
