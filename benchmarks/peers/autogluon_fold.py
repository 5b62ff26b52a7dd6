"""One fold in AutoGluon's own environment: choose the number of photo components, fit, predict.

In: FOLDER with ``train.csv``, ``test.csv`` and ``task.json``, written by ``autogluon.py``. Out: ``predictions.csv``
(one column for a number, one per class for classes) and ``done.json`` there.
Run by ``autogluon.py`` with the Python of that environment: python -I autogluon_fold.py FOLDER"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from autogluon.tabular import TabularPredictor


def fitted(train: pd.DataFrame, folder: Path, task: dict[str, Any], **settings: Any) -> TabularPredictor:
    """A predictor; rare classes are kept."""
    predictor = TabularPredictor(
        label=task["label"],
        problem_type=task["problem"],
        eval_metric=task["metric"],
        path=str(folder),
        verbosity=0,
        learner_kwargs={"label_count_threshold": 1},
    )
    return predictor.fit(train, num_cpus=task["threads"], num_gpus=0, **settings)


def columns(frame: pd.DataFrame, task: dict[str, Any], count: int) -> pd.DataFrame:
    """The table with the first components of the photos."""
    found = frame.drop(columns=task["components"][count:])
    for name in task["categories"]:
        found[name] = found[name].astype("category")
    for name in task["dates"]:
        found[name] = pd.to_datetime(found[name], errors="coerce")
    return found


def main(folder: Path) -> None:
    """Run one fold."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    texts = dict.fromkeys([*task["categories"], *task["dates"], *task["texts"]], str)
    train, test = (pd.read_csv(folder / name, dtype=texts) for name in ("train.csv", "test.csv"))
    start, scratch = time.perf_counter(), folder / "models"
    scores = {}
    for count in task["counts"]:  # gradient boosting alone, on an inner split of the training rows
        tried = fitted(
            columns(train, task, count), scratch / str(count), task, hyperparameters={"GBM": {}}, time_limit=60
        )
        scores[count] = float(tried.leaderboard(silent=True)["score_val"].max())
    best = max(scores, key=lambda count: scores[count])
    tuned = time.perf_counter() - start
    start = time.perf_counter()
    predictor = fitted(
        columns(train, task, best),
        scratch / "best",
        task,
        presets="best_quality",
        time_limit=task["seconds"],
        dynamic_stacking=False,
        ag_args_ensemble={"fold_fitting_strategy": "sequential_local"},
    )
    seconds = time.perf_counter() - start
    new = columns(test, task, best)
    found = predictor.predict(new) if task["problem"] == "regression" else predictor.predict_proba(new)
    pd.DataFrame(found).to_csv(folder / "predictions.csv", index=False)
    board = predictor.leaderboard(silent=True)
    single = board[~board["model"].str.startswith("WeightedEnsemble")]
    done = {
        "components": best,
        "tuning_seconds": tuned,
        "seconds": seconds,
        "models": len(single),
        "best_single": "" if single.empty else str(single.iloc[0]["model"]),
    }
    shutil.rmtree(scratch, ignore_errors=True)
    (folder / "done.json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
