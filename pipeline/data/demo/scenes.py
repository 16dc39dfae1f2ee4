"""One scene: a crop of a photograph, some objects in front of it, things that cover them, a camera."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.data.demo.artwork import CLASSES, Drawing
from pipeline.params import DemoScenes

#: An object is `difficult` when less than this share of it is visible, or when its visible box is
#: shorter than this share of the scene's shorter side.
LEAST_VISIBLE = 0.5
LEAST_SIDE = 0.14
#: `truncated` (VOC: the box does not hold the whole object) below this share of the full box's area.
WHOLE = 0.85
#: Nothing may hide an object further than this: what cannot be seen cannot be annotated.
NEARLY_HIDDEN = 0.2
TRIES = 8
#: Objects are smaller by their number to this power, so that several find room.
CROWDING = 0.35
#: Share of the scenes where a tree, a rock or a piece of background stands before an object.
COVERED = 0.3
#: Largest blur of the background, as a share of the scene's height.
DEFOCUS = 0.03
#: An object before another leaves at least this share of it visible.
OVERLAP = 0.75


@dataclass(frozen=True)
class Material:
    """What a split's scenes are made of: drawings per class, covering drawings, photographs."""

    drawings: dict[str, list[Drawing]]
    scenery: list[Drawing]
    backgrounds: list[np.ndarray]


@dataclass(frozen=True)
class SceneObject:
    """An annotated object; box is VOC's xmin, ymin, xmax, ymax: pixels, 1-based, inclusive."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


@dataclass
class _Placed:
    """A drawing in the scene: its class, full box and full area, and what is still visible of it."""

    name: str
    full_area: float
    full_box_area: float
    visible: np.ndarray  # (H, W) bool

    def share(self, hidden_by: np.ndarray | None = None) -> float:
        visible = self.visible if hidden_by is None else self.visible & ~hidden_by
        return int(np.count_nonzero(visible)) / self.full_area


def compose(params: DemoScenes, material: Material,
            rng: np.random.Generator) -> tuple[np.ndarray, list[SceneObject]]:
    """Draws one scene.

    Returns:
        The image, (H, W, 3) uint8 RGB, and its objects, back to front.
    """
    height, width = params.size
    image = _defocus(_background(material.backgrounds, height, width, rng), rng)
    placed: list[_Placed] = []
    count = _how_many(params.objects, rng)
    for _ in range(count):
        _add_object(image, placed, params, material, rng, shrink=count ** -CROWDING)
    if rng.random() < COVERED:
        _add_cover(image, placed, material, rng, keep=LEAST_VISIBLE)
    for hard in [one for one in placed if rng.random() < params.difficult / 2]:
        _add_cover(image, placed, material, rng, keep=NEARLY_HIDDEN, onto=hard)
    return _photograph(image, rng), [_annotate(one, min(height, width)) for one in placed]


def _how_many(objects: tuple[int, int], rng: np.random.Generator) -> int:
    """Each further object is half as likely, as in VOC, where most images show one or two."""
    counts = np.arange(objects[0], objects[1] + 1)
    weights = 0.5 ** counts
    return int(rng.choice(counts, p=weights / weights.sum()))


def _background(photographs: list[np.ndarray], height: int, width: int,
                rng: np.random.Generator) -> np.ndarray:
    """A random crop of a random photograph, recoloured, as (H, W, 3) float32 in 0..255."""
    photograph = photographs[rng.integers(len(photographs))]
    largest = min(photograph.shape[0] / height, photograph.shape[1] / width)
    zoom = largest * rng.uniform(0.4, 1.0)
    crop_height, crop_width = int(height * zoom), int(width * zoom)
    top = rng.integers(photograph.shape[0] - crop_height + 1)
    left = rng.integers(photograph.shape[1] - crop_width + 1)
    crop = photograph[top:top + crop_height, left:left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    interpolation = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=interpolation)
    tint = rng.uniform(0.75, 1.15, 3) * rng.uniform(0.7, 1.2)
    lift = rng.uniform(0, 60)  # night skies and deep fields become dusk now and then
    recoloured: np.ndarray = np.clip(image * tint + lift, 0, 255).astype(np.float32)
    return recoloured


def _defocus(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The background is behind the objects and so more or less out of focus."""
    sigma = rng.uniform(0, DEFOCUS) * image.shape[0]
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.3 else image


def _add_object(image: np.ndarray, placed: list[_Placed], params: DemoScenes, material: Material,
                rng: np.random.Generator, shrink: float) -> None:
    """Puts one object before what is there, without hiding any of it too far."""
    height, width = image.shape[:2]
    name = CLASSES[rng.integers(len(CLASSES))]
    choices = material.drawings[name]
    drawing = choices[rng.integers(len(choices))]
    least, most = params.object_size
    size = shrink * np.exp(rng.uniform(np.log(least), np.log(most)))
    if rng.random() < params.difficult / 2:
        size = LEAST_SIDE * rng.uniform(0.5, 0.95)
    side = size * min(height, width)
    picture = _recolour(drawing.level(side), rng)
    for attempt in range(TRIES):
        side *= 0.93 ** (attempt > TRIES // 2)
        matrix = _pose(picture, side, rng)
        corners = _corners(picture, matrix)
        extent = corners.max(0) - corners.min(0)
        at_border = rng.random() < 0.15
        free = np.maximum(np.array([width, height]) - extent, 0)
        target = rng.uniform(0, 1, 2) * free
        if at_border:
            axis = rng.integers(2)
            cut = extent[axis] * rng.uniform(0.1, 0.4)
            target[axis] = -cut if rng.random() < 0.5 else (width, height)[axis] - extent[axis] + cut
        matrix[:, 2] += target - corners.min(0)
        layer = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
        mask = layer[..., 3] > 127
        hides_too_much = any(one.share(mask) < min(OVERLAP, one.share()) for one in placed)
        if mask.any() and not hides_too_much:
            break
    else:
        return
    full = _full_mask(picture, matrix)
    for one in placed:
        one.visible &= ~mask
    placed.append(_Placed(name, max(1, int(np.count_nonzero(full))), _box_area(full), mask))
    _shade(image, layer, rng)
    _blend(image, layer)


def _add_cover(image: np.ndarray, placed: list[_Placed], material: Material, rng: np.random.Generator,
               keep: float, onto: _Placed | None = None) -> None:
    """Covers part of the scene with a tree, a rock or a torn piece of background."""
    height, width = image.shape[:2]
    anchor = onto or (placed[rng.integers(len(placed))] if placed else None)
    if anchor is None or not anchor.visible.any():
        return
    rows, columns = np.nonzero(anchor.visible)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
    reach = float((high - low).max()) + 1
    for _ in range(TRIES):
        side = max(6.0, reach * rng.uniform(0.4, 0.9))
        if rng.random() < 0.5:
            picture = _recolour(material.scenery[rng.integers(len(material.scenery))].level(side), rng)
        else:
            picture = _patch(material.backgrounds, int(side) + 1, rng)
        matrix = _pose(picture, side, rng)
        corners = _corners(picture, matrix)
        centre = rng.uniform(low, high + 1)
        matrix[:, 2] += centre - corners.mean(0)
        layer = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
        mask = layer[..., 3] > 127
        floor = [NEARLY_HIDDEN if one is onto else min(keep, one.share()) for one in placed]
        covers_enough = onto is None or onto.share(mask) < LEAST_VISIBLE
        if covers_enough and all(one.share(mask) >= least for one, least in zip(placed, floor, strict=True)):
            for one in placed:
                one.visible &= ~mask
            _blend(image, layer)
            return


def _patch(backgrounds: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A round piece of background with an uneven edge, (side, side, 4) uint8 premultiplied."""
    piece = _background(backgrounds, side, side, rng)
    angle_noise = cv2.resize(rng.uniform(0.6, 1.4, (4, 4)), (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    alpha = (np.hypot(x, y) * angle_noise < 0.42).astype(np.float32)[..., None]
    return np.concatenate([piece * alpha, 255 * alpha], 2).astype(np.uint8)


def _recolour(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns hue a little, changes saturation and brightness, and puts some haze before it."""
    spread = rng.normal(0, 0.15) / np.sqrt(3)  # of a rotation about the grey axis: about 8 degrees
    turn = np.eye(3) + spread * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    saturation, brightness, haze = rng.uniform(0.7, 1.1), rng.uniform(0.65, 1.0), rng.uniform(0, 0.2)
    matrix = np.eye(4)  # the colour is premultiplied, so what is added grows with alpha
    matrix[:3, :3] = brightness * (saturation * turn + (1 - saturation) / 3)
    matrix[:3, 3] = haze * rng.uniform(0.25, 0.8, 3)
    changed: np.ndarray = np.minimum(cv2.transform(picture, matrix), picture[..., 3:])
    return changed


def _pose(picture: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) matrix, picture -> scene, up to the translation: size, stretch, flip, shear, rotation."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    angle = rng.normal(0, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-0.15, 0.15)], [0.0, 1.0]])
    linear = turn @ shear @ np.diag([scale * stretch * flip, scale / stretch])
    return np.hstack([linear, np.zeros((2, 1))])


def _corners(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    moved: np.ndarray = corners @ matrix[:, :2].T + matrix[:, 2]
    return moved


def _full_mask(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The drawing's mask as if the scene had no border."""
    corners = _corners(picture, matrix)
    low = np.floor(corners.min(0)) - 1
    extent = np.ceil(corners.max(0) - low).astype(int) + 2
    shifted = matrix.copy()
    shifted[:, 2] -= low
    alpha = cv2.warpAffine(picture[..., 3], shifted, (int(extent[0]), int(extent[1])), flags=cv2.INTER_LINEAR)
    return np.greater(alpha, 127)


def _shade(image: np.ndarray, layer: np.ndarray, rng: np.random.Generator) -> None:
    """A soft shadow beside the object, which the drawing then covers."""
    strength, (dx, dy) = rng.uniform(0, 0.6), rng.uniform(0, 0.04, 2) * image.shape[0]
    shift = np.array([[1, 0, dx], [0, 1, dy]])
    shadow = cv2.warpAffine(layer[..., 3], shift, (image.shape[1], image.shape[0]))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.02 * image.shape[0])
    image *= 1 - strength / 255 * shadow[..., None].astype(np.float32)


def _blend(image: np.ndarray, layer: np.ndarray) -> None:
    image *= 1 - layer[..., 3:].astype(np.float32) / 255
    image += layer[..., :3]


def _photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a cheap camera makes of the scene: blur, uneven exposure, noise."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * height / 96)
    light = cv2.resize(rng.uniform(0.75, 1.15, (2, 2)).astype(np.float32), (width, height))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
    return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8)


def _box_area(mask: np.ndarray) -> float:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)) if len(rows) else 1.0


def _annotate(one: _Placed, shorter_side: int) -> SceneObject:
    """The tight box of what is visible, as VOC annotates, and the two flags."""
    rows, columns = np.flatnonzero(one.visible.any(1)), np.flatnonzero(one.visible.any(0))
    box = (int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1)
    longer = max(box[2] - box[0], box[3] - box[1]) + 1
    return SceneObject(
        one.name, box,
        truncated=_box_area(one.visible) < WHOLE * one.full_box_area,
        difficult=one.share() < LEAST_VISIBLE or longer < LEAST_SIDE * shorter_side)
