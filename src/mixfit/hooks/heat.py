"""Heat maps of photos: Grad-CAM, gradients of the output with respect to pixels, and figures of both."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.hooks.hook import Call, Hook, Hooks, evaluating, find_layer
from mixfit.seeding import seeded

if TYPE_CHECKING:
    import matplotlib.figure
    import PIL.Image

Direction = Literal["up", "down", "both"]
"""Whether heat marks regions that increase the output ("up"), decrease it ("down"), or either ("both")."""
Target = int | Int64[Tensor, " batch"] | None
"""The class to explain, one for all rows or one for each; None for the predicted class, and for regression."""
Method = Literal["plain", "smooth", "integrated"]
_AT_A_TIME = 16
"""Number of copies of a row in one batch."""
_NOISE = 0.1
_BRIGHT = 0.99
_GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""
_INCHES = 1.9


@runtime_checkable
class PhotoInputs(Protocol):
    """The fields of a batch that are needed here; ``mixfit.Inputs`` has them."""

    images: Tensor | None
    features: Tensor | None
    image_mask: Tensor | None
    normalized: bool

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> "PhotoInputs": ...


def grad_cam(
    model: nn.Module,
    xb: PhotoInputs,
    layer: str | nn.Module | None = None,
    target: Target = None,
    *,
    direction: Direction | None = None,
) -> Float[Tensor, "batch photos height width"]:
    """Heat map of each photo by Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391).

    The channels of a layer's feature map are summed, each weighted by the spatial mean of the output's gradient; the
    sum is resized to the size of the photo. If an image encoder also passes on means and standard deviations of earlier
    feature maps, the share of each place in their effect is added, unless a layer is given: the output's gradient times
    the value, or times the squared deviation divided by the standard deviation. This also works with a frozen image
    encoder, and with a model trained on precomputed features, which are computed from the pixels here. The graph of the
    encoder over all photos of the batch is kept in memory, so use small batches.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        xb: rows with pixels.
        layer: of the image encoder, or its name in the model; by default ``last_feature_map``.
        target: the class to explain, one for all rows or one for each; by default the predicted one. None for
            regression.
        direction: by default "up" for classes and "both" for regression.
    Returns:
        Heat in [0, 1], on the device of the model. 1 is the hottest location over all photos of a row, so that its
        photos can be compared; 0 everywhere if there is no photo.
    Raises:
        ConfigError: the batch has features instead of pixels, the model has no such layer, the output of the layer has
            no spatial dimensions, or ``target`` is not a class of the model.
    """
    pixels, mask = pixels_of(xb)
    heat = pixels.new_zeros(*mask.shape, *pixels.shape[3:])
    if not mask.any():
        return heat
    statistics = getattr(getattr(model, "image", None), "statistics", None) if layer is None else None
    layer = last_feature_map(model, xb) if layer is None else layer
    module = find_layer(model, layer) if isinstance(layer, str) else layer
    outputs, earlier = _Outputs(), _Pairs()
    with ExitStack() as hooks:
        hooks.enter_context(evaluating(model))
        hooks.enter_context(torch.enable_grad())
        hooks.enter_context(Hook(module, outputs.keep))
        if isinstance(statistics, nn.Module):
            hooks.enter_context(Hook(statistics, earlier.cut, "pre-forward"))
            hooks.enter_context(Hook(statistics, earlier.keep))
        y = model(with_pixels(xb, pixels.requires_grad_()))
        maps = _feature_map(outputs.get(""), model, mask, pixels)
        if maps is None:
            raise ConfigError(
                f"The output of the layer {_name_of(model, module)} is not a feature map: choose a layer of the image "
                "encoder whose output is (photos, channels, height, width) or (photos, tokens, channels)."
            )
        kept = [outputs[""], *(output for _, output in earlier)]
        gradient, *others = torch.autograd.grad(chosen_output(y, target).sum(), kept, allow_unused=True)
    if gradient is None and not any(slope is not None for slope in others):
        return heat
    slopes = _feature_map(torch.zeros_like(outputs[""]) if gradient is None else gradient, model, mask, pixels)
    assert slopes is not None
    cam = (slopes.sum((2, 3), keepdim=True) * maps).detach().sum(1).float()
    for (values, _), slope in zip(earlier, others, strict=True):
        if slope is not None:
            cam = _added(cam, _shares(values.float(), slope))
    coarse = cam.new_zeros(*mask.shape, *cam.shape[1:])
    coarse[mask] = directed(cam, direction or ("up" if y.ndim == 2 else "both"))
    heat = F.interpolate(coarse, size=heat.shape[2:], mode="bilinear", align_corners=False)
    highest = heat.amax((1, 2, 3), keepdim=True)
    return torch.where(highest > 0, heat / highest, 0.0).clamp(0, 1)


def last_feature_map(model: nn.Module, xb: PhotoInputs) -> str:
    """The name of the last layer of the image encoder whose output has spatial dimensions larger than 1.

    Layers whose spatial locations do not influence the output are skipped, such as the last layer of a transformer of
    which only one token is used.

    Raises:
        ConfigError: the model has no image encoder, no row has a photo, or no layer has spatial dimensions.
    """
    encoder = getattr(model, "image", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError("The model has no image encoder, so there are no heat maps; use a model with photos.")
    pixels, mask = pixels_of(xb)
    if not mask.any():
        raise ConfigError("None of the rows has a photo, which is needed to find a layer; pass rows with photos.")
    one = xb[[int(mask.any(1).nonzero()[0])]]
    pixels, mask = pixels_of(one)
    outputs = _Outputs()
    within = set(encoder.modules())
    with evaluating(model), torch.enable_grad(), Hooks(model, outputs.keep, lambda _, module: module in within):
        y = model(with_pixels(one, pixels.requires_grad_()))
        found = {name: output for name, output in outputs.items() if _has_places(output, model, mask, pixels)}
        if not found:
            raise ConfigError("No layer output of the image encoder has spatial dimensions: use input_gradients.")
        gradients = torch.autograd.grad(chosen_output(y, None).sum(), list(found.values()), allow_unused=True)
    for name, gradient in reversed(list(zip(found, gradients, strict=True))):
        slopes = None if gradient is None else _feature_map(gradient, model, mask, pixels)
        if slopes is not None and slopes.any():
            return name
    return list(found)[-1]


def input_gradients(
    model: nn.Module,
    xb: PhotoInputs,
    target: Target = None,
    *,
    method: Method = "plain",
    samples: int = 32,
    seed: int = 0,
) -> Float[Tensor, "batch photos 3 height width"]:
    """The gradient of the output with respect to each pixel of each photo; 0 if there is no photo.

    This also works with a frozen image encoder.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        xb: rows with pixels.
        target: the class to explain, one for all rows or one for each; by default the predicted one. None for
            regression.
        method: "plain"; "smooth", the mean over ``samples`` copies with noise of standard deviation 0.1 in the unit of
            the pixels (SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825); or "integrated" (integrated gradients,
            Sundararajan et al. 2017, arXiv:1703.01365), with ``samples`` steps from a mid-grey baseline to the photo,
            whose sum is the effect of the photos on the output.
        seed: of the noise; the global generator is not used.
    Returns:
        Output per unit of a pixel (pixels are in [0, 1] unless the batch is normalised); for "integrated", output.
    Raises:
        ConfigError: the batch has features instead of pixels, ``target`` is not a class of the model, or "smooth" or
            "integrated" is requested but captum is not installed.
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
            target = y.argmax(1)  # of the original row, not of each modified copy
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
    """Heat in [0, 1] from gradients: the sum over the colour channels, clipped to 1 at the 99th percentile of a row.

    Without clipping, a few pixels with very large gradients would leave the rest of the heat map dark."""
    heat = directed(gradients, direction).sum(2)
    for row in heat:
        hot = row[row.flatten(1).amax(1) > 0] if row.numel() else row
        # The percentile excludes photos without heat, such as missing ones.
        scale = hot.flatten().kthvalue(max(1, int(_BRIGHT * hot.numel()))).values if hot.numel() else row.new_ones(())
        scale = scale if scale > 0 else hot.amax()
        row /= scale
    return heat.clamp(0, 1)


def overlay(
    photo: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"],
    heat: Float[Tensor, "height width"],
    *,
    colours: str = "turbo",
    opacity: float = 0.6,
) -> "PIL.Image.Image":
    """Overlay a heat map on the photo: the photo in grey, coloured where the heat is high.

    Args:
        photo: uint8 in 0..255, or float in [0, 1].
        heat: in [0, 1]; the opacity of the colour increases with it.
        colours: name of a matplotlib colormap.
        opacity: at a heat of 1, in [0, 1].
    """
    import matplotlib
    from PIL import Image

    shades = np.asarray(_floats(photo).permute(1, 2, 0)) @ np.array(_GREY)
    warmth = np.asarray(heat.detach().cpu().float().clamp(0, 1))
    colour = matplotlib.colormaps[colours](warmth)[..., :3]
    # The square root makes regions of medium heat visible, too.
    share = opacity * np.sqrt(warmth)[..., None]
    mixed = (1 - share) * shades[..., None] + share * colour
    return Image.fromarray((255 * mixed).round().clip(0, 255).astype(np.uint8))


def heat_figure(
    photos: Sequence[UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]],
    heats: Sequence[Float[Tensor, "height width"]],
    titles: Sequence[str] | None = None,
    *,
    title: str = "",
    colours: str = "turbo",
) -> "matplotlib.figure.Figure":
    """The photos of a row side by side, each with its heat map below; for a row without photos, a note.

    Args:
        photos, heats: as for ``overlay``, one heat map per photo.
        titles: above each photo.
        title: above the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES * max(1, len(photos)), 2 * _INCHES + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=9, parse_math=False)
    if not photos:
        figure.text(0.5, 0.5, "no photo", ha="center", va="center")
        return figure
    grid = figure.subplots(2, len(photos), squeeze=False)
    for place, (photo, heat) in enumerate(zip(photos, heats, strict=True)):
        grid[0, place].imshow(_floats(photo).permute(1, 2, 0).numpy())
        grid[1, place].imshow(overlay(photo, heat, colours=colours))
        grid[0, place].set_axis_off()
        grid[1, place].set_axis_off()
        if titles is not None:
            grid[0, place].set_title(titles[place], fontsize=8, parse_math=False)
    return figure


def pixels_of(
    xb: PhotoInputs,
) -> tuple[Float[Tensor, "batch photos 3 height width"], Bool[Tensor, "batch photos"]]:
    """A copy of the pixels as floats, 0 if there is no photo; and the mask of the photos.

    Raises:
        ConfigError: the batch has features instead of pixels."""
    if xb.images is None:
        if xb.features is not None:
            raise ConfigError(
                "The batch has features of the photos instead of pixels, and features have no location in the photo: "
                "pass a batch with pixels, from data without precomputed features."
            )
        return torch.zeros(len(xb), 0, 3, 0, 0), torch.zeros(len(xb), 0, dtype=torch.bool)
    mask = xb.image_mask
    if mask is None:
        mask = torch.zeros(xb.images.shape[:2], dtype=torch.bool, device=xb.images.device)
    pixels = xb.images.detach()
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return pixels.masked_fill(~mask[:, :, None, None, None], 0), mask


def with_pixels(xb: PhotoInputs, pixels: Tensor | None) -> PhotoInputs:
    """The same rows with other pixels, and without features."""
    changed = copy.copy(xb)
    changed.images, changed.features = pixels, None
    return changed


def chosen_output(y: Float[Tensor, "batch ..."], target: Target) -> Float[Tensor, " batch"]:
    """The output to explain, for each row.

    Args:
        y: output of the model, ``(batch,)`` or ``(batch, classes)``.
    Raises:
        ConfigError: ``target`` is not a class of the model."""
    if y.ndim == 1:
        if target is not None:
            raise ConfigError("The model predicts a number, which has no classes: omit the target.")
        return y
    classes = y.shape[1]
    index = y.argmax(1) if target is None else torch.as_tensor(target, device=y.device).expand(len(y))
    if not bool(((index >= 0) & (index < classes)).all()):
        wrong = int(index[(index < 0) | (index >= classes)][0])
        raise ConfigError(f"The target must be a class from 0 to {classes - 1}, got {wrong}.")
    return y.gather(1, index[:, None])[:, 0]


def directed(values: Tensor, direction: Direction) -> Tensor:
    """The part of an influence that counts as heat, at least 0."""
    match direction:
        case "up":
            return values.clamp(min=0)
        case "down":
            return (-values).clamp(min=0)
        case "both":
            return values.abs()


class _Outputs(dict[str, Tensor]):
    """Outputs of layers, in the order in which their calls ended."""

    def keep(self, call: Call) -> Tensor | None:
        """The function of a hook. The kept output and the returned one are copies: the next layer may change its input
        in place, and the model may change the input of the layer, which is also its output if it is an identity."""
        if not isinstance(call.output, Tensor) or not call.output.requires_grad:
            return None
        self.pop(call.name, None)  # a layer that is used twice is listed at its last call
        self[call.name] = kept = call.output.clone()
        return kept.clone()


class _Pairs(list[tuple[Tensor, Tensor]]):
    """Input and output of each call of a layer, which is cut off from what comes before it, so that gradients of
    earlier layers leave it out."""

    def cut(self, call: Call) -> tuple[Tensor, ...]:
        """The function of a hook before the layer."""
        return tuple(one.detach().requires_grad_() for one in call.inputs)

    def keep(self, call: Call) -> Tensor:
        """The function of a hook."""
        kept = call.output.clone()
        self.append((call.inputs[0].detach().clone(), kept))
        return kept.clone()


def _shares(values: Float[Tensor, "n channels h w"], slope: Float[Tensor, "n 2*channels"]) -> Float[Tensor, "n h w"]:
    """The share of each place in the effect of the means and standard deviations of a feature map, whose mean over the
    places is the sum of the products of these and the output's gradients ``slope``."""
    of_mean, of_deviation = slope[:, :, None, None].chunk(2, dim=1)
    squares = (values - values.mean((2, 3), keepdim=True)) ** 2
    deviations = squares.mean((2, 3), keepdim=True).sqrt()
    return (of_mean * values + of_deviation * torch.where(deviations > 0, squares / deviations, 0)).sum(1)


def _added(first: Float[Tensor, "n h w"], second: Float[Tensor, "n h2 w2"]) -> Float[Tensor, "n h3 w3"]:
    """The sum of two maps, in the finer resolution."""
    size = [max(sizes) for sizes in zip(first.shape[1:], second.shape[1:], strict=True)]
    wide = (F.interpolate(one[:, None], size=size, mode="bilinear", align_corners=False) for one in (first, second))
    return sum(wide, start=first.new_zeros(()))[:, 0]


def _feature_map(
    output: Tensor | None, model: nn.Module, mask: Tensor, pixels: Tensor
) -> Float[Tensor, "n channels h w"] | None:
    """The output of a layer with channels before spatial dimensions; None if it has no spatial dimensions."""
    photos, height, width = int(mask.sum()), *pixels.shape[3:]
    if output is None or len(output) != photos:
        return None

    def fits(h: int, w: int) -> bool:
        return round(h * width / height) == w

    if output.ndim == 4:
        if fits(*output.shape[2:]):
            return output
        return output.permute(0, 3, 1, 2) if fits(*output.shape[1:3]) else None
    if output.ndim != 3:
        return None
    backbone = getattr(getattr(model, "image", None), "backbone", None)
    first = int(getattr(backbone, "num_prefix_tokens", 0))  # timm's name for tokens without a location
    tokens = output.shape[1] - first
    h = round((tokens * height / width) ** 0.5) if tokens > 0 else 0
    if h == 0 or tokens % h or not fits(h, tokens // h):
        return None
    return output[:, first:].transpose(1, 2).reshape(photos, output.shape[2], h, tokens // h)


def _has_places(output: Tensor, model: nn.Module, mask: Tensor, pixels: Tensor) -> bool:
    maps = _feature_map(output, model, mask, pixels)
    return maps is not None and maps.shape[2] * maps.shape[3] > 1


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    return next((name for name, module in model.named_modules() if module is layer), type(layer).__name__)


def _output_of_copies(
    model: nn.Module, bare: PhotoInputs, row: int, target: Target
) -> Callable[[Float[Tensor, "copies photos 3 height width"]], Float[Tensor, " copies"]]:
    """A function that computes the output of one row for many versions of its pixels."""
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
            f"The method {method} needs captum: pip install mixfit[explain], or use the method plain."
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
            raise AssertionError("handled without captum")
        case _:
            raise ConfigError(f"There is no method {method!r}: the methods are plain, smooth and integrated.")
    return found


def _floats(photo: Tensor) -> Tensor:
    """On the CPU, in [0, 1]."""
    photo = photo.detach().cpu()
    return photo / 255 if photo.dtype == torch.uint8 else photo.float().clamp(0, 1)
