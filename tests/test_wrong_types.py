"""Arguments of a wrong type: one sentence that says what may be given, never a TypeError from deep inside.

Run in a process of its own, as the tests' own checks of types would refuse them first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixfit.auto.recipe import Run

CALLS = {
    "mixfit.fit(None, target='y')": "table must be a path of a table or a DataFrame, got None",
    "mixfit.fit([1, 2], target='y')": "table must be a path of a table or a DataFrame, got list [1, 2]",
    "mixfit.fit(frame, target=None)": "target must be the name of a column, got None",
    "mixfit.fit(frame, target=['y'])": "target must be the name of a column, got list ['y']",
    "mixfit.fit(frame, target='y', images=3)": "images must be a path of a folder, got int 3",
    "mixfit.fit(frame, target='y', data={'valid': 0.2})": "data must be a mixfit.DataConfig, got dict",
    "mixfit.fit(frame, target='y', train='quick')": "train must be a mixfit.TrainConfig, got str 'quick'",
    "mixfit.fit(frame, target='y', model=mixfit.TrainConfig())": "model must be a mixfit.ModelConfig, got TrainConfig",
    "mixfit.fit(frame, target='y', schema={})": "schema must be a mixfit.Schema or a path of a schema.json, got dict",
    "mixfit.fit(frame, target='y', out=3)": "out must be a path of a folder, got int 3",
    "mixfit.fit(frame, target='y', callbacks=mixfit.Recorder())": "callbacks must be a list of callbacks, got Recorder",
    "mixfit.fit(frame, target='y', models='linear')": "models must be a list of models, got str 'linear'",
    "mixfit.TrainConfig(epochs='many')": "epochs must be a whole number, got 'many'",
    "mixfit.TrainConfig(epochs=2.5)": "epochs must be a whole number, got 2.5",
    "mixfit.TrainConfig(lr='fast')": "lr must be a number, got 'fast'",
    "mixfit.TrainConfig(time=60)": "time must be a text, got 60",
    "mixfit.TrainConfig(time='3x')": "time: A duration is a number above 0",
    "mixfit.ModelConfig(tabular_hidden=32)": "tabular_hidden must be a list, each entry a whole number, got 32",
    "mixfit.DataConfig(ignore='area')": "ignore must be a list, each entry a text, got 'area'",
    "mixfit.DataConfig(dedup='yes')": "dedup must be true or false, got 'yes'",
    "mixfit.DataConfig(roles=['a'])": "roles must be a dict, got ['a']",
    "mixfit.DataConfig(text='tab')": "text must be a TextConfig, got 'tab'",
    "mixfit.DataConfig(images=3)": "images must be a path, got 3",
    "mixfit.DataConfig(text_model=3)": "text_model must be a text, got 3",
    "mixfit.DataConfig(text_model=__import__('pathlib').Path('m'), valid=2.0)": "valid must be above 0",
    "mixfit.load_data(frame, target='y', text_model='minilm')": "text_model must be a mixfit.TextModel, got str",
    "mixfit.Predictor.load(run, text_model=3)": "text_model must be a path of a folder, got int 3",
    "mixfit.TextModel.load(3)": "text_model must be minilm or a path of a folder, got int 3",
    "mixfit.load_data(None, target='y')": "table must be a path of a table or a DataFrame, got None",
    "mixfit.load_data(frame, target=3)": "target must be the name of a column, got int 3",
    "mixfit.load_data(frame, target='y', images=[])": "images must be a path of a folder, got list []",
    "mixfit.load_data(frame, target='y', config={})": "config must be a mixfit.DataConfig, got dict {}",
    "mixfit.load_data(frame, target='y', schema='s.json')": "schema must be a mixfit.Schema, such as Schema.load(path)",
    "mixfit.load_data(frame, target='y', image_size='big')": "image_size must be a whole number, got 'big'",
    "mixfit.inspect_table(None, target='y')": "table must be a path of a table or a DataFrame, got None",
    "mixfit.inspect_table(frame, target=None)": "target must be the name of a column, got None",
    "mixfit.inspect_table(frame, target='y', config=1)": "config must be a mixfit.DataConfig, got int 1",
    "mixfit.tune(None, target='y')": "table must be a path of a table",
    "mixfit.resume(None)": "run must be a run or the path of its folder, got None",
    "mixfit.predict_table(None, frame)": "run must be a run or the path of its folder, got None",
    "mixfit.predict_table(run, None)": "table must be a path of a table or a DataFrame, got None",
    "mixfit.predict_table(run, [[1]])": "table must be a path of a table or a DataFrame, got list [[1]]",
    "mixfit.predict_table(run, frame, interval='0.9')": "interval must be a number such as 0.9, got str '0.9'",
    "mixfit.predict_table(run, frame, interval=90)": "the level of intervals must be between 0 and 1",
    "mixfit.predict_table(run, frame, bad_rows='keep')": "bad_rows must be one of mark, drop, fail, got 'keep'",
    "mixfit.predict_table(run, frame, out=3)": "out must be a path of a table to write, got int 3",
    "mixfit.evaluate_table(3, frame)": "run must be a run or the path of its folder, got int 3",
    "mixfit.evaluate_table(run, None)": "table must be a path of a table or a DataFrame, got None",
    "mixfit.evaluate_table(run, frame, split='tset')": "split must be one of train, valid, test, all, got 'tset'",
    "mixfit.evaluate_table(run, frame, images=1)": "images must be a path of a folder, got int 1",
    "mixfit.evaluate_table(run, frame, by='makr')": "no column 'makr'",
    "mixfit.explain_run(None, n=3)": "run must be a run or the path of its folder, got None",
    "mixfit.explain_run(run, rows='3,17')": "rows must be a list of row numbers such as [3, 17], got '3,17'",
    "mixfit.explain_run(run, n='3')": "n must be a number of rows, got str '3'",
    "mixfit.explain_run(run, n=3, table=frame)": "table must be a path, got DataFrame",
    "mixfit.compare_runs(run)": "runs must be a list of runs or of paths of their folders, got str",
    "mixfit.compare_runs([run, None])": "runs must be a list of runs or of paths of their folders, got None",
    "mixfit.Predictor.load(None)": "folder must be a path of a model folder or a run, got None",
    "mixfit.Predictor.load(run).predict(None)": "frame must be a DataFrame of rows; for a file, use",
    "mixfit.Predictor.load(run).predict(str(frame))": "frame must be a DataFrame of rows",
    "mixfit.explain(run, frame)": "predictor must be a mixfit.Predictor, such as run.predictor, got str",
    "mixfit.explain(mixfit.Predictor.load(run), None)": "frame must be a DataFrame of rows; for a file, use",
    "mixfit.explain(mixfit.Predictor.load(run), frame, rows=3)": "rows must be a list of row numbers such as [3, 17]",
    "mixfit.photo_heat(None, frame)": "predictor must be a mixfit.Predictor, such as run.predictor, got None",
}
SCRIPT = """
import json, sys
import mixfit, pandas as pd

run, table, calls = json.loads(sys.argv[1])
frame, said = pd.read_csv(table), {}
frame["y"] = range(len(frame))
for call in calls:
    try:
        eval(call)
        said[call] = "no error"
    except (mixfit.ConfigError, mixfit.DataError) as error:
        said[call] = str(error)
    except Exception as error:
        said[call] = repr(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(quick_run: Run, demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    argument = json.dumps([str(quick_run.folder), str(demo_table), list(CALLS)])
    command = [sys.executable, "-c", SCRIPT, argument]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path_factory.mktemp("wrong_types")
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_type_is_one_sentence_that_says_what_may_be_given(call: str, said: dict[str, str]) -> None:
    assert said[call].startswith(CALLS[call])
    assert "\n" not in said[call]
