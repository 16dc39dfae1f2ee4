from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.inference.augmentation import answer, check_scales
from pipeline.inference.dump import dump_spec, dump_teacher
from pipeline.inference.growing import older_dump
from pipeline.inference.planning import plan_dump
from pipeline.inference.prediction import inference, predict
from pipeline.models import peaks_to_boxes
from pipeline.models.hourglass import HourglassArch, HourglassDetector
from pipeline.outputs import DenseOutputs
from pipeline.params import Augmentation, Dump, Encodings
from storage import FingerprintMismatch, open_store

SIZE = 64
PLAIN = Augmentation()
EXACT = Encodings(heatmap="exact-fp32", wh_offset="exact-fp32", features="exact-fp16")
NAMED = {"teacher": "small", "teacher_sha256": "weights-sha"}


class Knowing(HourglassDetector):
    """A teacher that finds the same objects of a view at every size, and in its mirror image.

    It knows a mirrored view by its left edge, which is dark in `images`.
    """

    #: class, score, centre x and y and size as shares of the view.
    objects = ((0, 0.9, 0.323, 0.41, 0.3, 0.4), (2, 0.6, 0.781, 0.62, 0.25, 0.2))

    def __init__(self):
        super().__init__("hourglass_small", 3, HourglassArch(dims=(8, 8), modules=(1, 1), stacks=1, stem_channels=8,
                                                             head_channels=8))
        self.seen = []

    def features(self, images):
        return [images]

    @property
    def heads_of_stacks(self):
        return [self.say]

    def say(self, images):
        height, width = (side // 4 for side in images.shape[2:])
        mirrored = bool(images[0, 0, 0, 0] > images[0, 0, 0, -1])
        self.seen.append((tuple(images.shape[2:]), mirrored))
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        probability = torch.full((3, height, width), 1e-4)
        geometry = torch.full((4, height, width), float(len(self.seen)))
        for label, score, cx, cy, w, h in self.objects:
            cx, cy, w, h = (1 - cx if mirrored else cx) * width, cy * height, w * width, h * height
            i, j = int(cy), int(cx)
            bump = score * torch.exp(-((x - j) ** 2 + (y - i) ** 2) / (2 * (w / 8) ** 2))
            probability[label] = probability[label].maximum(bump)
            geometry[:, i, j] = torch.tensor([w, h, cx - j, cy - i])
        batch = len(images)
        return DenseOutputs(*(part[None].expand(batch, *part.shape) for part in (
            probability.logit(), geometry[:2], geometry[2:], images.mean(1)[:, ::4, ::4])))


@pytest.fixture
def images():
    shade = torch.linspace(0, 255, SIZE).round().to(torch.uint8)
    return shade.expand(2, 3, SIZE, SIZE).contiguous()


def ask(model, images, tta, peaks=8):
    with inference(model, "cpu"):
        return answer(model, images, precision="32-true", peaks=peaks, tta=tta)


@pytest.mark.parametrize(("flip", "scales"), [
    (True, [1.0]), (False, [1.0, 2.0]), (False, [0.5, 1.0]), (True, [0.5, 1.0, 2.0])])
def test_a_teacher_that_says_the_same_of_every_pass_says_it_in_the_end(images, flip, scales):
    model = Knowing()
    plain = ask(model, images, PLAIN)
    merged = ask(model, images, Augmentation(flip=flip, scales=scales))
    assert len(model.seen) == 1 + len(scales) * (1 + flip)
    assert {seen[0][0] for seen in model.seen} == {SIZE * scale for scale in scales}
    assert {seen[1] for seen in model.seen} == {False, True} if flip else {False}
    for one, other in zip(plain, merged, strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    found = len(Knowing.objects)
    torch.testing.assert_close(merged.peaks[:, :found], plain.peaks[:, :found], rtol=0, atol=1e-5)
    assert torch.equal(merged.peaks[:, :found, :2], plain.peaks[:, :found, :2])
    assert not merged.peaks[:, found:].any()
    # The maps decode to the same; a mirror alone leaves them what they were.
    cells = merged.peaks[0, :found, 0].long()
    torch.testing.assert_close(merged.wh_offset.flatten(2)[0, :, cells], plain.wh_offset.flatten(2)[0, :, cells],
                               rtol=0, atol=1e-5)
    if scales == [1.0]:
        torch.testing.assert_close(merged.heatmap, plain.heatmap)


def test_features_and_what_lies_off_the_peaks_are_the_plain_passs(images):
    model = Knowing()
    plain = ask(model, images, PLAIN)
    model.seen.clear()
    merged = ask(model, images, Augmentation(flip=True, scales=[0.5, 1.0]))
    assert torch.equal(merged.features, plain.features)
    assert merged.wh_offset[0, :, 0, 0].tolist() == [1, 1, 1, 1]  # the first pass says 1 off its peaks


def test_the_heatmap_is_the_mean_of_the_passes(detector):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    merged = ask(detector, images, Augmentation(flip=True))
    with inference(detector, "cpu"):
        one, other = (predict(detector, pixels, "32-true").heatmap for pixels in (images, images.flip(3)))
    torch.testing.assert_close(merged.heatmap, (one + other.flip(3)) / 2)


def test_a_view_and_its_mirror_image_get_mirrored_answers(detector):
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    tta = Augmentation(flip=True)
    one, other = (ask(detector, pixels, tta) for pixels in (images, images.flip(3)))
    torch.testing.assert_close(one.heatmap, other.heatmap.flip(3))
    boxes, turned = (peaks_to_boxes(said.peaks, 8)[0] for said in (one, other))
    mirrored = torch.stack([8 - turned[:, 2], turned[:, 1], 8 - turned[:, 0], *turned[:, 3:].T], 1)
    np.testing.assert_allclose(np.sort(boxes.numpy(), 0), np.sort(mirrored.numpy(), 0), atol=1e-4)


@pytest.mark.parametrize(("size", "multiple", "scale", "nearest"), [
    ((64, 64), 32, 1.25, "1"), ((64, 64), 32, 1.3, "1.5"), ((512, 512), 128, 0.8, "0.75"), ((96, 64), 32, 1.5, "2"),
    ((64, 64), 32, 0.1, "0.5")])
def test_scales_that_do_not_suit_the_network_are_refused(size, multiple, scale, nearest):
    config = SimpleNamespace(size_multiple=multiple, model="resnet50")
    with pytest.raises(UserError) as caught:
        check_scales(config, size, Augmentation(scales=[scale, 1.0]))
    for words in (f"dump.tta.scales: {scale:g} ", f"fit resnet50, whose input sides are multiples of {multiple}",
                  f"the nearest scale that does is {nearest} (they are multiples of "):
        assert words in str(caught.value)


def test_scales_that_suit_it_are_not():
    for size, scales in (((64, 64), [0.5, 1.5, 2]), ((384, 512), [0.75, 1.25]), ((96, 96), [1 / 3])):
        check_scales(SimpleNamespace(size_multiple=32, model="m"), size, Augmentation(scales=[1.0, *scales]))


@pytest.fixture
def augmented():
    return Dump(batch=2, peaks=6, shard_views=4, encodings=EXACT, tta=Augmentation(flip=True, scales=[1.0, 2.0]))


def test_a_dump_holds_the_merged_answers(detector, data, views, fabric, augmented, tmp_path):
    dump_teacher(detector, data, views, tmp_path / "t.zarr", params=augmented, fabric=fabric, **NAMED)
    store = open_store(tmp_path / "t.zarr")
    assert store.spec.identity["tta"] == {"flip": True, "scales": [1.0, 2.0]}
    records = data.records("train")
    pixels = np.stack([views.render(row, records[row // 2].read, records[row // 2].path) for row in range(10)])
    said = ask(detector, torch.from_numpy(pixels).permute(0, 3, 1, 2), augmented.tta, peaks=6)
    for name in ("heatmap", "wh_offset", "peaks"):
        np.testing.assert_allclose(store.decode(name, store.read(name, range(10))), getattr(said, name), atol=1e-4)
    # What a mirror changes is measured on the plain pass.
    dump_teacher(detector, data, views, tmp_path / "plain.zarr", fabric=fabric, **NAMED,
                 params=augmented.model_copy(update={"tta": PLAIN}))
    plain = open_store(tmp_path / "plain.zarr")
    assert store.manifest["created"]["flip"] == plain.manifest["created"]["flip"]
    assert np.array_equal(store.read("features", range(10)), plain.read("features", range(10)))


def test_other_passes_are_another_dump(detector, data, views, fabric, augmented, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    out = tmp_path / "t.zarr"
    with pytest.raises(KeyboardInterrupt):
        dump_teacher(detector, data, views, out, params=augmented, fabric=fabric, **NAMED, progress=interrupt)
    plain = augmented.model_copy(update={"tta": PLAIN})
    with pytest.raises(FingerprintMismatch, match=r"tta\.flip"):
        dump_teacher(detector, data, views, out, params=plain, fabric=fabric, **NAMED)
    dump_teacher(detector, data, views, out, params=augmented, fabric=fabric, **NAMED)
    wanted = dump_spec(detector, data, views, params=plain, **NAMED)
    assert older_dump([out], wanted, views, "") is None


def test_the_plan_counts_every_pass(detector, data, views, fabric, augmented, monkeypatch):
    counts, features = [], type(detector).features
    monkeypatch.setattr(type(detector), "features",
                        lambda self, images: counts.append(images.shape[-1]) or features(self, images))
    plan_dump(detector, data, views, params=augmented, fabric=fabric)
    assert counts[-4:] == [32, 32, 64, 64]


def test_a_scale_that_does_not_fit_is_refused_before_the_teacher_runs(detector, data, views, fabric, tmp_path):
    params = Dump(tta=Augmentation(scales=[1.0, 1.1]))
    with pytest.raises(UserError, match=r"dump\.tta\.scales: 1\.1"):
        dump_teacher(detector, data, views, tmp_path / "t.zarr", params=params, fabric=fabric, **NAMED)
    assert not (tmp_path / "t.zarr").exists()
