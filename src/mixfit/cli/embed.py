"""``mixfit embed``: frozen features of photos and texts, computed once."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mixfit.choices import Crop
from mixfit.cli.flags import EngineName, Flat, SetRoles, chosen_engine, with_roles
from mixfit.config import ModelConfig, TextConfig

_DEFAULT = ModelConfig()


def embed(
    table: str,
    *,
    out: Annotated[str, Parameter(name=("--out", "-o"))],
    target: str | None = None,
    images: str | None = None,
    set_: SetRoles = (),
    schema: Path | None = None,
    backbone: str = _DEFAULT.backbone,
    backbone_weights: Path | None = None,
    photo_stages: int | None = None,
    image_size: int | None = None,
    crop: Crop = "squash",
    text_model: str = "none",
    shard_rows: int = 1024,
    engine: EngineName = "local",
    workers: int | None = None,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Compute frozen features of the photos and texts of a table once, for --features of train, predict and evaluate.

    The same command continues after an interrupt or a crash: what is there is not computed again.

    Parameters
    ----------
    table
        A table as for train; or a URL, such as s3://bucket/table.parquet, of a Parquet table.
    out
        Folder or URL to write, such as features.parquet.
    target
        Column to predict, if the table has it.
    images
        Folder or URL that photo paths are relative to; by default the table's folder.
    set_
        COLUMN=ROLE sets a role, such as image or text.
    schema
        A schema.json, such as that of a run, used instead of inferred roles.
    backbone
        Image network.
    backbone_weights
        Safetensors file with its weights.
    photo_stages
        Last stages of the image network whose means and deviations join its features; by default 3.
    image_size
        Photos are resized to this side length in pixels; by default 128 for small photos, else 224.
    crop
        How a photo is made square: squash it, crop its centre, or pad it with grey.
    text_model
        Sentence encoder of texts: none, minilm, or a folder of sentence-transformers.
    shard_rows
        Most rows of the table in a shard.
    engine
        Where it is computed: in this process, or by ray on all cores of this machine or of the cluster of RAY_ADDRESS.
    workers
        Processes of ray that compute; by default as many as there are cores beside the one that reads.
    """
    with chosen_engine(engine, workers) as found:
        from mixfit.auto.embedding import embed as compute

        compute(
            table,
            out,
            target=target,
            images=images,
            schema=schema,
            roles=with_roles(None, set_).roles,
            model=ModelConfig(backbone=backbone, backbone_weights=backbone_weights, photo_stages=photo_stages),
            image_size=image_size,
            crop=crop,
            text_model=text_model,
            text=text,
            shard_rows=shard_rows,
            engine=found,
        )
