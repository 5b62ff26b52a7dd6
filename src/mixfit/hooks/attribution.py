"""Where in the photos: which places of each photo of a row move the model's prediction.

In: a model and a batch with pixels, of rows with any number of photos. Out: heat in [0, 1] of each pixel, or gradients.
Of a batch only the fields of ``PhotoInputs`` are known here, and of a model that its image encoder is called ``image``.
The model's mode, gradients and hooks are left as they were found, also by an error."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.hooks.hook import Call, Hook, Hooks
from mixfit.hooks.photo_inputs import Direction, PhotoInputs, Target, chosen_output, directed, pixels_of, with_pixels
from mixfit.hooks.select import find_layer
from mixfit.hooks.walk import evaluating


def grad_cam(
    model: nn.Module,
    xb: PhotoInputs,
    layer: str | nn.Module | None = None,
    target: Target = None,
    *,
    direction: Direction | None = None,
) -> Float[Tensor, "batch photos height width"]:
    """Heat of each photo by Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391).

    The channels of a layer's feature map are summed, each weighed by the mean of the output's gradient over its places;
    the sum is brought to the size of the photo. Works for a frozen image encoder, too, also where the model was trained
    on features that were computed once: they are computed from the pixels here. The graph of the encoder over all
    photos of the batch is in memory for a moment, so give it small batches.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        xb: rows with pixels.
        layer: of the image encoder, or its name in the model; by default ``last_feature_map``.
        target: which class, one for all rows or one for each; by default the predicted one. None for numbers.
        direction: by default "up" for classes and "both" for numbers.
    Returns:
        In [0, 1] on the CPU or where the model is. 1 is the hottest place in the photos of a row, so that its photos
        can be compared; 0 everywhere where there is no photo.
    Raises:
        ConfigError: the batch has features in place of pixels, the model has no such layer, or the layer keeps no
            places; or ``target`` is not a class of the model.
    """
    pixels, mask = pixels_of(xb)
    heat = pixels.new_zeros(*mask.shape, *pixels.shape[3:])
    if not mask.any():
        return heat
    layer = last_feature_map(model, xb) if layer is None else layer
    module = find_layer(model, layer) if isinstance(layer, str) else layer
    outputs = _Outputs()
    with evaluating(model), torch.enable_grad(), Hook(module, outputs.keep):
        y = model(with_pixels(xb, pixels.requires_grad_()))
        maps = _feature_map(outputs.get(""), model, mask, pixels)
        if maps is None:
            raise ConfigError(
                f"The layer {_name_of(model, module)} gives no feature map of the photos: choose a layer of the image "
                "encoder whose output is (photos, channels, height, width) or (photos, tokens, channels)."
            )
        (gradient,) = torch.autograd.grad(chosen_output(y, target).sum(), outputs[""], allow_unused=True)
    if gradient is None:
        return heat
    slopes = _feature_map(gradient, model, mask, pixels)
    assert slopes is not None
    cam = (slopes.mean((2, 3), keepdim=True) * maps).detach().sum(1).float()
    coarse = cam.new_zeros(*mask.shape, *cam.shape[1:])
    coarse[mask] = directed(cam, direction or ("up" if y.ndim == 2 else "both"))
    heat = F.interpolate(coarse, size=heat.shape[2:], mode="bilinear", align_corners=False)
    highest = heat.amax((1, 2, 3), keepdim=True)
    return torch.where(highest > 0, heat / highest, 0.0).clamp(0, 1)


def last_feature_map(model: nn.Module, xb: PhotoInputs) -> str:
    """The name of the last layer of the image encoder whose output still has places, several of them.

    What the output does not depend on at any place is passed over, such as the tokens of a transformer's last layer
    but the one that is read.

    Raises:
        ConfigError: the model has no image encoder, no row has a photo, or no layer has places.
    """
    encoder = getattr(model, "image", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError("The model has no image encoder, so there is nothing to see in photos.")
    pixels, mask = pixels_of(xb)
    if not mask.any():
        raise ConfigError("None of the rows has a photo, so that no layer can be found by looking at one.")
    one = xb[[int(mask.any(1).nonzero()[0])]]
    pixels, mask = pixels_of(one)
    outputs = _Outputs()
    within = set(encoder.modules())
    with evaluating(model), torch.enable_grad(), Hooks(model, outputs.keep, lambda _, module: module in within):
        y = model(with_pixels(one, pixels.requires_grad_()))
        found = {name: output for name, output in outputs.items() if _has_places(output, model, mask, pixels)}
        if not found:
            raise ConfigError("No layer of the image encoder has an output with places in the photo, so name no layer.")
        gradients = torch.autograd.grad(chosen_output(y, None).sum(), list(found.values()), allow_unused=True)
    for name, gradient in reversed(list(zip(found, gradients, strict=True))):
        slopes = None if gradient is None else _feature_map(gradient, model, mask, pixels)
        if slopes is not None and slopes.any():
            return name
    return list(found)[-1]


class _Outputs(dict[str, Tensor]):
    """What layers gave, in the order in which they ended."""

    def keep(self, call: Call) -> Tensor | None:
        """For a hook. What goes on is a copy, as the next layer may change it in place."""
        if not isinstance(call.output, Tensor) or not call.output.requires_grad:
            return None
        self.pop(call.name, None)  # a layer that is used twice stands where it was used last
        self[call.name] = call.output
        return call.output.clone()


def _feature_map(
    output: Tensor | None, model: nn.Module, mask: Tensor, pixels: Tensor
) -> Float[Tensor, "n channels h w"] | None:
    """A layer's output with its channels before its places; None if it has no places."""
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
    first = int(getattr(backbone, "num_prefix_tokens", 0))  # timm's name for tokens that are no place
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
