"""Encodings of feature maps: a reduction of the map, then codes of what is left.

    [pca-K+][pooled+](exact-fp16 | u8-channel)

`pooled` averages 2x2 cells. `pca-K` projects the channels onto the K directions (or as many as there are
channels) in which the map varies most, each scaled to mean 0 and variance 1. `u8-channel` cuts the range of
each channel into 255 steps. What these need to know is fitted once per store, on a sample, and kept in the
array's parameters. A reduced map is what students are compared with; it is never expanded again.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.compressors import LZ4_BITSHUFFLE
from storage.encodings import ENCODINGS, Array, Encoding
from storage.errors import StoreError

if TYPE_CHECKING:
    from storage.spec import ArraySpec

#: How an encoding of features may be called, for messages.
FEATURE_ENCODINGS = ("u8-channel", "pooled+…", "pca-K+…")
_NAME = re.compile(r"(?:pca-([1-9]\d{0,3})\+)?(pooled\+)?(exact-fp16|u8-channel)")
#: Cells that a view gives to the sample which parameters are fitted on.
CELLS_PER_VIEW = 256
#: Room on either side of the sample's range, as a share of it, for cells that are not in the sample. It doubles the
#: error of codes inside the range, which is still a hundredth of what a channel varies by; a few cells that saturate
#: would cost far more, since they are the strongest ones.
MARGIN = 0.5
#: Least step of u8-channel, as a share of the largest value: a hundredth of it is what float32 rounds away.
FLOAT32 = 6e-6


def components(encoding: str) -> int | None:
    """K of pca-K, None without."""
    found = _NAME.fullmatch(encoding)
    return int(found[1]) if found and found[1] else None


def is_pooled(encoding: str) -> bool:
    """Whether 2x2 cells are averaged."""
    found = _NAME.fullmatch(encoding)
    return bool(found and found[2])


def reduction(encoding: str) -> tuple[int | None, bool]:
    """What an encoding does to a map before it is coded: (K of pca-K or None, pooled)."""
    return components(encoding), is_pooled(encoding)


def codec(encoding: str) -> str:
    """What turns the reduced map into codes: the last part of an encoding's name."""
    return encoding.rpartition("+")[2]


def reduced_shape(encoding: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (K, h', w') in which a map (F, h, w) is stored."""
    channels, height, width = shape
    kept = min(components(encoding) or channels, channels)
    return (kept, -(-height // 2), -(-width // 2)) if is_pooled(encoding) else (kept, height, width)


def pool(values: Array) -> Array:
    """The means of 2x2 cells of (..., h, w); an odd last row or column is taken twice."""
    odd = [(0, 0)] * (values.ndim - 2) + [(0, side % 2) for side in values.shape[-2:]]
    even = np.pad(values, odd, "edge") if values.shape[-1] % 2 or values.shape[-2] % 2 else values
    rows = even[..., ::2, :] + even[..., 1::2, :]
    return np.asarray((rows[..., ::2] + rows[..., 1::2]) / 4)


def reduce(spec: "ArraySpec", values: Array) -> Array:
    """What of maps (n, F, h, w) the codes of `spec` stand for: (n, *shape of the codes) float32.

    Maps without a reduction, heads among them, come back as they are.
    """
    small = pool(values) if is_pooled(spec.encoding) else values
    if components(spec.encoding) is None:
        return small
    projection = np.asarray(spec.parameters["projection"], np.float32)
    shift = projection @ np.asarray(spec.parameters["mean"], np.float32)
    return np.asarray(np.einsum("kf,nfhw->nkhw", projection, small, optimize=True) - shift[:, None, None],
                      np.float32)


def sample_cells(encoding: str, values: Array) -> Array:
    """Evenly spread cells of maps (n, F, h, w), pooled if the encoding does: (m, F) float32."""
    small = pool(values) if is_pooled(encoding) else values
    cells = small.reshape(*small.shape[:2], -1)
    step = max(1, cells.shape[2] // CELLS_PER_VIEW)
    return np.asarray(cells[:, :, step // 2 :: step].transpose(0, 2, 1).reshape(-1, small.shape[1]), np.float32)


def fit_parameters(encoding: str, cells: Array) -> dict[str, Any]:
    """What the codes of a store's features need to know.

    Args:
        encoding: a name as above.
        cells: (m, F) sampled by `sample_cells`.

    Returns:
        JSON: for pca-K mean (F,), projection (K, F) and the share of the variance it explains; for
        u8-channel low and step (K,), the sample's range and `MARGIN` of it on either side in 255 steps, or in steps of
        `FLOAT32` of the largest value where these are longer. Values beyond saturate.

    Raises:
        StoreError: the sample is not finite.
    """
    if not np.isfinite(cells).all():
        raise StoreError("features that are not finite cannot be encoded: the teacher diverged")
    fitted: dict[str, Any] = {}
    kept = cells.astype(np.float64)
    if (count := components(encoding)) is not None:
        mean = kept.mean(0)
        variance, directions = np.linalg.eigh(np.cov(kept - mean, rowvar=False, ddof=0).reshape(len(mean), -1))
        variance, directions = variance[::-1].clip(0), directions[:, ::-1].T
        # A direction's sign is arbitrary: the same sample has to give the same projection everywhere.
        directions = directions * np.sign(directions[np.arange(len(mean)), np.abs(directions).argmax(1)])[:, None]
        scale = 1 / np.sqrt(variance[:count] + 1e-6 * variance[0] + 1e-12)
        projection = _short(directions[:count] * scale[:, None])
        fitted = {"mean": _short(mean).tolist(), "projection": projection.tolist(),
                  "explained_variance": round(float(variance[:count].sum() / max(variance.sum(), 1e-12)), 4)}
        kept = (kept - mean) @ projection.T
    if encoding.endswith("u8-channel"):
        room = MARGIN * (kept.max(0) - kept.min(0))
        low, high = kept.min(0) - room, kept.max(0) + room
        # The values are float32: of a channel that hardly varies, steps are not finer than they can tell.
        finest = FLOAT32 * np.maximum(np.abs(low), np.abs(high)) + 1e-8
        fitted |= {"low": _short(low).tolist(), "step": _short(np.maximum((high - low) / 255, finest)).tolist()}
    return fitted


def channel_variances(spec: "ArraySpec") -> list[float]:
    """How much each stored channel varies in the teacher's own map, as a multiple of their mean.

    Components of pca-K are stored with variance 1 each; the projection still knows what it was. Channels that are no
    components count 1.
    """
    if components(spec.encoding) is None:
        return [1.0] * spec.shape[0]
    variances = 1 / np.square(np.asarray(spec.parameters["projection"], np.float64)).sum(1)
    return [float(value) for value in variances / variances.mean()]


def _short(values: Array) -> Array:
    """Six digits: what a float32 holds, in half the text."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)


def _scale(spec: "ArraySpec") -> tuple[Array, Array]:
    low, step = (np.asarray(spec.parameters[key], np.float32)[:, None, None] for key in ("low", "step"))
    return low, step


def _channel_codes(spec: "ArraySpec", values: Array) -> Array:
    if not np.isfinite(values).all():
        raise StoreError(f"array {spec.name!r}: values that are not finite cannot be stored as {spec.encoding}")
    low, step = _scale(spec)
    return np.rint((values - low) / step).clip(0, 255).astype(np.uint8)


def _channel_values(spec: "ArraySpec", codes: Array) -> Array:
    low, step = _scale(spec)
    return np.asarray(low + codes.astype(np.float32) * step)


def _steps_within_range(spec: "ArraySpec", values: Array, decoded: Array) -> Array:
    low, step = _scale(spec)
    return np.asarray(np.abs(decoded - values.clip(low, low + 255 * step)) / step)


@lru_cache(256)
def feature_encoding(name: str) -> Encoding | None:
    """The encoding of that name, None where it is no name of one."""
    found = _NAME.fullmatch(name)
    if not found or name in ENCODINGS:
        return None
    if found[3] == "exact-fp16":
        return ENCODINGS["exact-fp16"]
    # Rounding in float32 may cost a little more than half a step.
    return Encoding("uint8", _channel_codes, _channel_values, _steps_within_range, 0.51,
                    "steps of the channel, within its range", LZ4_BITSHUFFLE, 2)


#: What else is asked of the parameters that are divided by.
_ABOVE_ZERO = {"step": ", all above 0", "projection": ", in each row one that is not 0"}


def check_parameters(spec: "ArraySpec") -> None:
    """Refuses parameters that do not fit the array: a crafted store must not reach the arithmetic.

    Raises:
        StoreError: one is missing, of a wrong length, not finite in float32, or would divide by zero.
    """
    count, wanted = components(spec.encoding), {}
    if count is not None:
        channels = len(spec.parameters["mean"]) if isinstance(spec.parameters.get("mean"), list) else 0
        count = min(count, channels or count)
        wanted = {"mean": (channels,), "projection": (count, channels)}
    if feature_encoding(spec.encoding) and spec.encoding.endswith("u8-channel"):
        wanted |= {"low": (spec.shape[0],), "step": (spec.shape[0],)}
    if wanted and (len(spec.shape) != 3 or (count is not None and spec.shape[0] != count)):
        raise StoreError(f"array {spec.name!r}: shape {spec.shape} does not fit encoding {spec.encoding!r}")
    for key, shape in wanted.items():
        try:
            with np.errstate(over="ignore"):
                values = np.asarray(spec.parameters[key], np.float64).astype(np.float32)
        except (KeyError, TypeError, ValueError, OverflowError):
            values = np.empty(0, np.float32)
        fit = values.shape == shape and math.prod(shape) > 0 and bool(np.isfinite(values).all())
        if fit and key in _ABOVE_ZERO:
            divisors = values if key == "step" else np.square(values).sum(axis=-1)
            fit = bool((divisors > 0).all())
        if not fit:
            raise StoreError(f"array {spec.name!r}: encoding {spec.encoding!r} needs the parameter {key!r} with "
                             f"{' x '.join(map(str, shape))} finite numbers{_ABOVE_ZERO.get(key, '')}")
