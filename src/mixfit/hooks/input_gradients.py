"""How each pixel of each photo of a row moves the model's prediction: gradients of the output with respect to pixels.

In: a model and a batch with pixels. Out: signed gradients, or heat in [0, 1] made of them. The plain gradient is taken
here; smoothed and integrated ones are captum's, an extra."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks.photo_inputs import Direction, PhotoInputs, Target, chosen_output, directed, pixels_of, with_pixels
from mixfit.hooks.walk import evaluating
from mixfit.seeding import seeded

Method = Literal["plain", "smooth", "integrated"]
_AT_A_TIME = 16
"""Copies of a row that go through the model together."""
_NOISE = 0.1
_BRIGHT = 0.99


def input_gradients(
    model: nn.Module,
    xb: PhotoInputs,
    target: Target = None,
    *,
    method: Method = "plain",
    samples: int = 32,
    seed: int = 0,
) -> Float[Tensor, "batch photos 3 height width"]:
    """The gradient of the output with respect to each pixel of each photo; 0 where there is no photo.

    Works for a frozen image encoder, too.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        xb: rows with pixels.
        target: which class, one for all rows or one for each; by default the predicted one. None for numbers.
        method: "plain"; "smooth", the mean over ``samples`` copies with noise of standard deviation 0.1 in the unit of
            the pixels (SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825); or "integrated", along ``samples`` steps
            from mid-grey to the photo, times the way (Sundararajan et al. 2017, arXiv:1703.01365), whose sum is the
            difference that the photos make to the output.
        seed: of the noise; the global generator is left as it is.
    Returns:
        Output per unit of a pixel, pixels being in [0, 1] unless the batch is normalised; for "integrated", output.
    Raises:
        ConfigError: the batch has features in place of pixels, ``target`` is no class of the model, or captum is not
            installed and "smooth" or "integrated" is wanted.
    """
    pixels, mask = pixels_of(xb)
    if not mask.any():
        return pixels
    with evaluating(model), torch.enable_grad():
        y = model(with_pixels(xb, pixels.requires_grad_()))
        output = chosen_output(y, target)
        if method == "plain":
            (gradient,) = torch.autograd.grad(output.sum(), pixels, allow_unused=True)
            return torch.zeros_like(pixels) if gradient is None else gradient
        if target is None and y.ndim == 2:
            target = y.argmax(1)  # of the row as it is, not of each changed copy
        bare, result = with_pixels(xb, None), torch.zeros_like(pixels)
        for row in mask.any(1).nonzero()[:, 0].tolist():
            of_copies = _output_of_copies(model, bare, row, target)
            there = mask[row][None, :, None, None, None]
            one = pixels[row : row + 1].detach()
            grey = torch.full_like(one, 0.0 if xb.normalized else 0.5)
            result[row] = (_captum(of_copies, one, grey, method, samples, seed) * there)[0]
    return result.detach()


def pixel_heat(
    gradients: Float[Tensor, "batch photos 3 height width"], *, direction: Direction = "both"
) -> Float[Tensor, "batch photos height width"]:
    """Heat in [0, 1] of gradients: the sum over the colours, 1 for the hottest hundredth of a row's pixels.

    A few pixels often have gradients many times larger than all others, which would leave a picture dark."""
    heat = directed(gradients, direction).sum(2)
    for row in heat:
        hot = row[row.flatten(1).amax(1) > 0] if row.numel() else row
        # A photo without heat, such as one that is not there, does not count among the pixels.
        scale = hot.flatten().kthvalue(max(1, int(_BRIGHT * hot.numel()))).values if hot.numel() else row.new_ones(())
        scale = scale if scale > 0 else hot.amax()
        row /= scale
    return heat.clamp(0, 1)


def _output_of_copies(
    model: nn.Module, bare: PhotoInputs, row: int, target: Target
) -> Callable[[Float[Tensor, "copies photos 3 height width"]], Float[Tensor, " copies"]]:
    """The output of one row with other pixels, many times."""
    only = target if target is None or isinstance(target, int) else int(target[row])

    def outputs(pixels: Tensor) -> Tensor:
        return chosen_output(model(with_pixels(bare[[row] * len(pixels)], pixels)), only)

    return outputs


def _captum(
    outputs: Callable[[Tensor], Tensor], pixels: Tensor, grey: Tensor, method: Method, samples: int, seed: int
) -> Tensor:
    try:
        from captum import attr
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Gradients of the method {method} need captum: pip install mixfit[explain]; or take the plain ones."
        ) from error
    match method:
        case "smooth":
            with seeded(seed):
                found: Any = attr.NoiseTunnel(attr.Saliency(outputs)).attribute(
                    pixels.requires_grad_(),
                    nt_type="smoothgrad",
                    nt_samples=samples,
                    nt_samples_batch_size=min(samples, _AT_A_TIME),
                    stdevs=_NOISE,
                    abs=False,
                )
        case "integrated":
            found = attr.IntegratedGradients(outputs).attribute(
                pixels.requires_grad_(),
                baselines=grey,
                n_steps=samples,
                internal_batch_size=_AT_A_TIME,
            )
        case "plain":
            raise AssertionError("taken without captum")
        case _:
            raise ConfigError(f"There is no method {method!r}: methods are plain, smooth and integrated.")
    return found
