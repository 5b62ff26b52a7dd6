# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A first run
#
# From a table with photos to predictions, in Python. The table is the example that mixfit brings: vases for sale, whose
# price depends on the table *and* on the photos. With your own table, start at the second cell.

# %%
from pathlib import Path

import mixfit
from mixfit.demo import write_demo

table = write_demo(Path("vases"), rows=160)

# %% [markdown]
# `load_data` reads the table and finds out what each column is. A notebook shows the result as a card; unfold `columns`
# for the role of each column and the reason.

# %%
data = mixfit.load_data(table, target="price", image_size=64)
data

# %% [markdown]
# Some training rows, as a network sees them: missing photos and missing cells are allowed.

# %%
data.show_batch(6)

# %% [markdown]
# `fit` is the command `mixfit train`: it cross-validates several kinds of models with and without the photos, and
# blends those that validate best. The preset `quick` is the fastest one.

# %%
settings = mixfit.TrainConfig(preset="quick", epochs=4)
run = mixfit.fit(table, target="price", train=settings, data=mixfit.DataConfig(image_size=64))

# %% [markdown]
# The run has the scores on the test rows, which played no part in the training, with 95 % intervals.

# %%
run

# %%
run.plot_predictions()

# %% [markdown]
# The folder of the run predicts new rows, here with intervals that hold the true price of about 90 % of such rows.

# %%
new = data.frame.drop(columns="price").head(4)
predicted = mixfit.predict_table(run, new, images="vases", interval=0.9)
predicted[["vase_id", "prediction", "lower", "upper", "status"]]

# %% [markdown]
# How much each column, and the photos, contribute to the predictions of three rows:

# %%
mixfit.explain(run.predictor, data.frame, images="vases", rows=[0, 1, 2], background=8)
