"""``mixfit tune`` and ``mixfit config``: settings of a training."""

from pathlib import Path
from typing import Annotated

from mixfit import config_file
from mixfit.cli.flags import Flat, SetRoles, with_roles
from mixfit.config import DataConfig, ModelConfig, TrainConfig


def tune(
    table: Path,
    *,
    target: str,
    trials: int = 20,
    set_: SetRoles = (),
    config: Path | None = None,
    schema: Path | None = None,
    out: Path = Path("tune"),
    data: Annotated[DataConfig | None, Flat] = None,
    model: Annotated[ModelConfig | None, Flat] = None,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Search for better settings of train; the same command goes on with a search, also in several processes at once.

    The time that --time gives is that of the search, after which no trial is begun and the running one is given up.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths in it start from its folder.
    target
        Column to predict.
    trials
        How many trainings there shall be in all; the first has the settings that are given here.
    set_
        COLUMN=ROLE, to set a role: number, category, date, image, group, split, weight or ignored.
    config
        TOML file with settings around which to search; flags win over it.
    schema
        A schema.json, perhaps edited, to use in place of inferred roles.
    out
        Folder in which the search's folder is made; best.toml in there is for train --config.
    """
    from mixfit.auto.tune import tune as search

    roles = with_roles(data, set_)
    search(table, target=target, trials=trials, data=roles, model=model, train=train, schema=schema, out=out)


def config() -> None:
    """Print all settings of train with their defaults and explanations, as a file for --config."""
    print(config_file.describe_settings(), end="")
