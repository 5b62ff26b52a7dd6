# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A callback and hooks of your own
#
# A callback changes the training without a change of its loop. A hook looks into a layer while the model runs. Both are
# removed afterwards, whatever happens.

# %%
from pathlib import Path

import torch

import mixfit
from mixfit.demo import write_demo

data = mixfit.load_data(write_demo(Path("vases"), rows=160), target="price", image_size=64, batch_size=32)
model = mixfit.build_model(data, seed=0)
data = mixfit.precompute_features(data, model)

# %% [markdown]
# ## A callback
#
# One method for each event that matters. This one measures how far each training step moves the weights, relative to
# their size, and halves the learning rate when a step is too large. A misspelt event is an
# error when the class is made.


# %%
class CarefulSteps(mixfit.Callback):
    """Halve the learning rates whenever a step moves the weights by more than ``most``, relative to their size."""

    def __init__(self, most: float = 0.02):
        self.most = most

    def before_fit(self, state):
        self.sizes, self.halved = [], 0

    def after_backward(self, state):
        self.before = [one.detach().clone() for one in state.model.parameters() if one.requires_grad]

    def after_step(self, state):
        after = [one.detach() for one in state.model.parameters() if one.requires_grad]
        moved = sum(float((a - b).square().sum()) for a, b in zip(after, self.before))
        whole = sum(float(one.square().sum()) for one in after)
        self.sizes.append((moved / whole) ** 0.5)
        if self.sizes[-1] > self.most:
            self.halved += 1
            for group in state.optimizer.param_groups:
                group["lr"] /= 2


careful = CarefulSteps()
learner = mixfit.Learner(model, data, loss=mixfit.mse)
learner.fit(4, lr=2e-2, callbacks=[careful, mixfit.ProgressLines()])
print(f"{len(careful.sizes)} steps, the rate was halved {careful.halved} times")
print(f"first step {careful.sizes[0]:.3f}, last step {careful.sizes[-1]:.3f}")

# %%
try:

    class Misspelt(mixfit.Callback):
        def after_bacth(self, state): ...

except TypeError as error:
    print(error)

# %% [markdown]
# ## Hooks
#
# `Hooks` calls a function at some layers while the `with` block runs: here at the encoders of the table and of the
# photos, whose outputs meet in the fusion.

# %%
spread = {}


def measure(call):
    spread[call.name] = float(call.output.std())


xb, yb = next(iter(data.valid))
with mixfit.Hooks(model, measure, ["tabular", "image"]), torch.inference_mode():
    model.eval()(xb)
print({name: round(value, 3) for name, value in spread.items()})

# %% [markdown]
# Statistics over a whole training: for each layer the mean, the spread and the share of values near zero, at every
# step, in bounded memory.

# %%
stats = mixfit.ActivationStats(model, ["tabular", "image", "fusion"])
with stats:
    learner.fit(6, lr=1e-3)
print(stats)

# %%
from mixfit.hooks.pictures import plot_spread

plot_spread(stats)
