from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import ImageRecord, invert, plain_view, render_view, resolve_view, view_boxes
from pipeline.data.views import IDENTITY_COLOR, View
from pipeline.params import Views

sides = st.integers(8, 300)
sizes = st.tuples(st.integers(16, 128), st.integers(16, 128))


def record(width, height, boxes=()):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    return ImageRecord("a", Path("a.png"), width, height, boxes, np.zeros(len(boxes), np.int64), flags, flags)


def draw(image, number=1, seed=0, **params):
    return resolve_view(image, 3, number, Views(**params), np.random.default_rng(seed))


def transform(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(sides, sides, sizes, st.integers(0, 5), st.integers(0, 10**6))
def test_the_way_back_leads_back(width, height, size, number, seed):
    view = draw(record(width, height), number, seed, size=size)
    points = np.random.default_rng(seed).uniform(0, 300, (5, 2))
    back = transform(invert(view.matrix), transform(view.matrix, points))
    np.testing.assert_allclose(back, points, atol=1e-8)


@given(sides, sides, sizes, st.integers(0, 10**6))
def test_boxes_inside_the_view_come_back(width, height, size, seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1) * [width, height]
    image = record(width, height, corners.reshape(-1, 4))
    view = draw(image, 1, seed, size=size)
    boxes, kept = view_boxes(image, view, size)
    assert boxes.dtype == np.float32
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= size[::-1]).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    back = np.sort(transform(invert(view.matrix), boxes.reshape(-1, 2, 2).astype(float)), axis=1)
    there = np.sort(transform(view.matrix, image.boxes.reshape(-1, 2, 2).astype(float)), axis=1)
    inside = ((there >= 0) & (there <= size[::-1])).all(axis=(1, 2))
    np.testing.assert_allclose(back[inside], image.boxes.reshape(-1, 2, 2)[inside], atol=1e-2)
    outside = ((there[:, 1] <= 0) | (there[:, 0] >= size[::-1])).any(axis=1)
    assert not kept[outside].any()


@pytest.mark.parametrize(
    ("width", "height", "size"), [(96, 96, (64, 64)), (500, 375, (64, 64)), (90, 60, (96, 128))])
@given(seed=st.integers(0, 10**6))
def test_pixels_and_boxes_agree(width, height, size, seed):
    """Width and centre of a rectangle, measured as brightness, against the transformed box."""
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, width // 2), rng.integers(0, height // 2)
    x2, y2 = rng.integers(x1 + width // 4, width), rng.integers(y1 + height // 4, height)
    scene = record(width, height, [[x1, y1, x2, y2]])
    view = draw(scene, int(rng.integers(0, 3)), seed, size=size, color=0.0, lighting=0.0)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    image = cv2.GaussianBlur(image, (0, 0), 1.5 / view.matrix[1, 1], borderType=cv2.BORDER_CONSTANT)
    pixels = render_view(image, view, size)[..., 1]
    box = view_boxes(scene, view, size)[0][0].reshape(2, 2)
    edge = transform(view.matrix, np.array([[0, 0], [width, height]]))
    edge.sort(axis=0)
    for axis, (low, high) in enumerate(box.T):
        room = 6  # for the blur, inside of the image and of the view
        least, most = max(0, edge[0, axis]) + room, min(size[1 - axis], edge[1, axis]) - room
        if not (least < low and high < most):
            continue
        line = pixels.sum(axis=axis, dtype=float)
        line /= line.max()
        if high - low > 2 * room:
            assert line.sum() == pytest.approx(high - low, abs=0.1)
        centre = (line * (np.arange(len(line)) + 0.5)).sum() / line.sum()
        assert centre == pytest.approx((low + high) / 2, abs=0.1)


def test_the_plain_view_is_the_whole_image_in_the_middle():
    view = draw(record(200, 100), 0, size=(64, 64))
    np.testing.assert_allclose(transform(view.matrix, np.array([[0, 0], [200, 100]])), [[0, 16], [64, 48]])
    assert (view.image, view.number, view.flip) == (3, 0, False)
    np.testing.assert_array_equal(view.color, IDENTITY_COLOR)
    same = plain_view(record(200, 100), (64, 64), 3)
    np.testing.assert_array_equal(view.matrix, same.matrix)
    assert same.image == 3


def test_the_plain_view_of_an_image_of_the_input_size_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    view = draw(record(64, 48), 0, size=(48, 64))
    np.testing.assert_array_equal(render_view(image, view, (48, 64)), image)


@given(sides, sides, st.integers(0, 10**6))
def test_draws_follow_the_official_augmentation(width, height, seed):
    view = draw(record(width, height), 1, seed, size=(64, 64))
    scale = 64 / max(width, height) / view.matrix[1, 1]
    assert np.isclose(scale, np.arange(0.6, 1.4, 0.1)).any()
    assert view.flip == (view.matrix[0, 0] < 0)
    centre = transform(invert(view.matrix), np.array([32.0, 32.0]))
    assert (np.abs(centre - centre.round()) < 1e-6).all()
    for place, side in zip(centre, (width, height), strict=True):
        border = next(b for b in (128, 64, 32, 16, 8, 4, 2, 1) if side > 2 * b)
        assert border - 1e-6 <= place <= side - border + 1e-6


def test_a_flipped_view_mirrors_the_unflipped_one():
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)
    scene = record(96, 96, [[10, 20, 40, 60]])
    straight, mirrored = (draw(scene, 1, 5, flip=flip, color=0.0, lighting=0.0) for flip in (0.0, 1.0))
    pixels = [render_view(image, view, (64, 64)).astype(int) for view in (straight, mirrored)]
    assert np.abs(pixels[0] - pixels[1][:, ::-1]).mean() < 2  # OpenCV may round to 1/32 pixel
    (left, _), (right, _) = (view_boxes(scene, view, (64, 64)) for view in (straight, mirrored))
    np.testing.assert_allclose(right, [[64 - left[0, 2], left[0, 1], 64 - left[0, 0], left[0, 3]]], atol=1e-4)


def test_the_same_draw_renders_the_same_pixels():
    image = np.random.default_rng(2).integers(0, 256, (300, 400, 3), np.uint8)
    first, second, other = (draw(record(400, 300), 1, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(render_view(image, first, (64, 64)), render_view(image, second, (64, 64)))
    assert not np.array_equal(first.matrix, other.matrix)


def test_shrinking_averages_instead_of_skipping():
    image = np.zeros((512, 512, 3), np.uint8)
    image[::2] = 200  # stripes that bilinear sampling at 1/8 would see as all or nothing
    pixels = render_view(image, draw(record(512, 512), 0), (64, 64))
    assert np.abs(pixels.astype(int) - 100).max() <= 1


@given(st.integers(0, 10**6), st.floats(0, 0.6), st.floats(0, 0.3))
def test_colour_is_brightness_contrast_saturation_in_some_order_then_lighting(seed, strength, lighting):
    """A view's six numbers against the operations applied one after the other."""
    image = np.random.default_rng(seed).integers(60, 180, (8, 8, 3), np.uint8)
    color = draw(record(8, 8), 1, seed, size=(8, 8), color=strength, lighting=lighting).color
    rng = np.random.default_rng(seed)  # the same stream: scale, centre, flip come first
    rng.choice(8), rng.integers(2, 6), rng.integers(2, 6), rng.random()
    alphas = 1 + rng.uniform(-strength, strength, 3)
    pixels = image / 255
    grey = pixels @ [0.299, 0.587, 0.114]
    for kind in rng.permutation(3):
        towards = (0.0, grey[..., None], grey.mean())[kind]
        pixels = alphas[kind] * pixels + (1 - alphas[kind]) * towards * (kind > 0)
    sigma = rng.normal(0, lighting, 3) * [0.2141788, 0.01817699, 0.00341571]
    components = np.array([
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352]])
    pixels = pixels + components @ sigma
    expected = np.clip(np.rint(255 * pixels), 0, 255)
    view = View(0, 1, plain_view(record(8, 8), (8, 8)).matrix, False, color)
    assert np.abs(render_view(image, view, (8, 8)) - expected).max() <= 1


def test_no_strength_changes_no_colour():
    view = draw(record(50, 50), 1, color=0.0, lighting=0.0)
    np.testing.assert_array_equal(view.color, IDENTITY_COLOR)


@pytest.mark.parametrize(("scale", "values"), [
    ((0.6, 1.4, 0.1), np.arange(0.6, 1.4, 0.1)), ((0.9, 1.2, 0.1), np.arange(0.9, 1.2, 0.1)),  # to the last bit
    ((1.0, 1.3, 0.1), np.arange(1.0, 1.3, 0.1)[:3]), ((0.9, 1.1, 0.1), np.arange(0.9, 1.1, 0.1)[:2]),
    ((1.0, 1.25, 0.1), np.arange(1.0, 1.25, 0.1)), ((1.0, 1.0 + 1e-9, 0.1), [1.0])])
def test_the_most_of_a_scale_is_not_drawn(scale, values):
    image = record(64, 64)
    drawn = {draw(image, 1, seed, scale=scale, size=(64, 64)).matrix[1, 1] for seed in range(200)}
    assert drawn == {1 / value for value in values}


def test_a_scale_of_one_value_is_that_value():
    view = draw(record(64, 64), 1, scale=(0.5, 0.5, 0.1), size=(64, 64))
    assert view.matrix[1, 1] == 2
