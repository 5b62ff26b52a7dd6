# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A network of your own
#
# mixfit does not need its own networks: any `nn.Module` that takes a batch `xb` and returns one number per row is
# trained, saved, loaded and explained in the same way.

# %%
from pathlib import Path

import torch
from torch import nn

import mixfit
from mixfit.demo import write_demo

table = write_demo(Path("vases"), rows=240)
data = mixfit.load_data(table, target="price", image_size=32, batch_size=32)

# %% [markdown]
# A batch is a pair. `xb` has the numbers, scaled; the categories as integers; and the photos of each row, with a mask
# that says which of them are there. `yb` is the target, scaled.

# %%
xb, yb = next(iter(data.train))
print("numeric    ", tuple(xb.numeric.shape))
print("categorical", tuple(xb.categorical.shape), "levels:", data.preprocessor.cardinalities)
print("images     ", tuple(xb.images.shape), "there:", int(xb.image_mask.sum()))
print("target     ", tuple(yb.shape))


# %% [markdown]
# The network: an embedding for each category, and for the photos a small convolution, whose result is averaged over the
# photos of a row that are there.


# %%
class Small(nn.Module):
    """``xb -> (batch,)``."""

    def __init__(self, numeric: int, cardinalities: tuple[int, ...], width: int = 32):
        super().__init__()
        self.levels = nn.ModuleList(nn.Embedding(levels, 4) for levels in cardinalities)
        self.photos = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, width, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(numeric + 4 * len(cardinalities) + width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, xb):
        levels = [level(xb.categorical[:, place]) for place, level in enumerate(self.levels)]
        batch, photos = xb.image_mask.shape
        seen = self.photos(xb.images.flatten(0, 1).float() / 255).view(batch, photos, -1)
        there = xb.image_mask[..., None]
        mean = (seen * there).sum(1) / there.sum(1).clamp(min=1)
        return self.head(torch.cat([xb.numeric, *levels, mean], 1))[:, 0]


torch.manual_seed(0)
model = Small(xb.numeric.shape[1], data.preprocessor.cardinalities)
learner = mixfit.Learner(model, data, loss=mixfit.mse, callbacks=[mixfit.Recorder()])
learner

# %% [markdown]
# How large may the learning rate be? A short training with growing rates tells, and leaves the model as it was.

# %%
learner.lr_find(steps=40).plot()

# %%
learner.fit_one_cycle(8, lr=5e-3, callbacks=[mixfit.ProgressLines()])
learner.recorder.plot_loss()

# %% [markdown]
# Does it use the photos? The loss on the validation rows, with the photos and with every photo hidden:

# %%
predicted, truth = learner.predict(data.valid)
hidden = []
with torch.inference_mode():
    for xb, _ in data.valid:
        xb.image_mask[:] = False
        hidden.append(model(xb))
print(f"with photos    {mixfit.mse(predicted, truth):.3f}")
print(f"without photos {mixfit.mse(torch.cat(hidden), truth):.3f}")

# %% [markdown]
# To let the network compete in `mixfit.fit`, see [parts of your own](../own-parts.md).
