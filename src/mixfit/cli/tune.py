"""``mixfit tune`` and ``mixfit config``: hyper-parameter search and settings of a training."""

import time
from pathlib import Path
from typing import Annotated

from mixfit import config_file
from mixfit.cli.flags import EngineName, Flat, SetRoles, chosen_trials, with_roles
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
    engine: EngineName = "local",
    data: Annotated[DataConfig | None, Flat] = None,
    model: Annotated[ModelConfig | None, Flat] = None,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Search for better hyper-parameters. The same command resumes a search; several processes can share one.

    Each trial fits all models of --preset with other settings of its networks, and is judged by the out-of-fold loss of
    their blend; with --preset network it trains one network, judged by its validation loss.

    --time limits the whole search: no trial starts that would not end in time; the first one of a preset always ends.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths are relative to its folder.
    target
        Column to predict.
    trials
        Total number of trials; the first uses the settings given here.
    set_
        COLUMN=ROLE sets a role: number, category, ordered, date, text, tags, image, group, split, weight or ignored.
    config
        TOML file with the settings to search around; flags override it.
    schema
        A schema.json, possibly edited, used instead of inferred roles.
    out
        Folder in which the search folder is created; use its best.toml with train --config.
    engine
        Where trials run: one after another in this process, or by ray, as many at a time as there are cores on this
        machine or the cluster of RAY_ADDRESS. A search continues with either.
    """
    began = time.monotonic()  # before the imports, which take seconds
    from mixfit.auto.tune import tune as search

    roles = with_roles(data, set_, config)
    with (
        chosen_trials(engine) as runs,
        config_file.naming_the_file(
            config, table=table, target=target, schema=schema, data=roles, model=model, train=train
        ),
    ):
        search(
            table,
            target=target,
            trials=trials,
            data=roles,
            model=model,
            train=train,
            schema=schema,
            out=out,
            began=began,
            engine=runs,
        )


def config() -> None:
    """Print all settings of train with defaults and explanations, as a TOML file for --config."""
    print(config_file.describe_settings(), end="")
