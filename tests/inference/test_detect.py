import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.inference import detect
from pipeline.inference.detection import flip_test
from pipeline.inference.prediction import inference, predict
from pipeline.models import build_detector
from pipeline.models.detector import Detector, DetectorConfig
from pipeline.outputs import DenseOutputs


class OnePeak(Detector):
    """Says the same of every image: one object of class 1 at cell (x 5, y 3), 4 x 2 cells, and
    another that reaches beyond the border."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = DetectorConfig(
            model="one-peak", num_classes=2, arch={}, stride=4, size_multiple=4, feature_channels=1)

    def features(self, images):
        return [images]

    @property
    def heads_of_stacks(self):
        return [self.say]

    def say(self, images):
        shape = len(images), 2, images.shape[2] // 4, images.shape[3] // 4
        heatmap, wh, offset = torch.full(shape, -200.0), torch.zeros(shape), torch.zeros(shape)
        heatmap[:, 1, 3, 5], heatmap[:, 0, 3, 0] = 2.0, 1.0
        wh[:, 0, 3, 5], wh[:, 1, 3, 5] = 4, 2
        wh[:, :, 3, 0] = 100
        offset[:, 0, 3, 5], offset[:, 1, 3, 5] = 0.5, 0.25
        return DenseOutputs(heatmap, wh, offset, heatmap[:, :1])


def test_boxes_come_back_in_source_pixels(make_records):
    # 80 x 40 pixels fit a 32 x 32 input at scale .4, with bars of 8 rows above and below.
    rows = detect(OnePeak(), make_records([(80, 40), (32, 32)]), size_hw=(32, 32), top_k=5)
    assert rows[:, 0].tolist() == [0, 0, 1, 1]
    assert rows[:, 1].tolist() == [1, 0, 1, 0]
    assert rows[:2, 2] == pytest.approx(1 / (1 + np.exp([-2, -1])))
    centre, half = np.array([5.5 * 4, 3.25 * 4]), np.array([8, 4])
    in_input = np.concatenate([centre - half, centre + half])
    assert rows[0, 3:] == pytest.approx((in_input - [0, 8, 0, 8]) / 0.4)
    assert rows[2, 3:] == pytest.approx(in_input)
    assert rows[1, 3:] == pytest.approx([0, 0, 80, 40])  # clipped to the image
    assert rows[3, 3:] == pytest.approx([0, 0, 32, 32])


def test_the_batch_size_does_not_matter_and_the_mode_stays(detector, make_records):
    records = make_records([(40, 30), (31, 64), (64, 64), (20, 20), (50, 41)])
    detector.train()
    calls = []
    whole = detect(detector, records, size_hw=(32, 32), batch=5, progress=lambda *done: calls.append(done))
    assert detector.training
    assert calls == [(5, 5, "images")]
    single = detect(detector, records, size_hw=(32, 32), batch=2)
    assert whole.shape == single.shape
    assert len(whole) > 20
    np.testing.assert_allclose(whole, single, rtol=1e-4, atol=1e-3)


def test_no_images_no_detections(detector):
    assert detect(detector, [], size_hw=(32, 32)).shape == (0, 7)


def test_flip_test_averages_heatmap_and_wh_only(detector):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with inference(detector, "cpu"):
        plain, mirrored = predict(detector, images, "32-true"), predict(detector, images.flip(3), "32-true")
        both = flip_test(detector, images)
    torch.testing.assert_close(both.heatmap, (plain.heatmap + mirrored.heatmap.flip(3)) / 2)
    torch.testing.assert_close(both.wh, (plain.wh + mirrored.wh.flip(3)) / 2)
    torch.testing.assert_close(both.offset, plain.offset)


def test_the_flip_test_does_not_know_left_from_right(detector, make_records):
    """Heatmap and wh of an image and of its mirror image mirror each other."""
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with inference(detector, "cpu"):
        one, other = (flip_test(detector, view) for view in (images, images.flip(3)))
    torch.testing.assert_close(one.heatmap, other.heatmap.flip(3))
    torch.testing.assert_close(one.wh, other.wh.flip(3))


def test_detections_are_those_of_the_flip_test_where_it_is_asked_for(make_records):
    """What is seen at column 5 of the image and of its mirror image, is there half as likely, and at column 2."""
    rows = detect(OnePeak(), make_records([(32, 32)]), size_hw=(32, 32), top_k=5, flip=True)
    found = rows[rows[:, 1] == 1]
    assert found[:, 2] == pytest.approx([1 / (1 + np.exp(-2)) / 2] * 2)
    assert sorted(found[:, [3, 5]].mean(1) // 4) == [2, 5]


def test_the_heads_of_other_stacks_do_not_run(detector):
    def never(*_):
        raise AssertionError("these heads are not asked")

    two = build_detector("hourglass_small", 3, dims=(8, 8), modules=(1, 1), stacks=2, stem_channels=8)
    two.heads[0].register_forward_hook(never)
    with inference(two, "cpu"):
        assert predict(two, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "32-true").heatmap.shape == (1, 3, 8, 8)


def test_float32_is_no_tf32_in_inference(detector):
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, allow_tf32=True):  # another test's threads may have left it otherwise
        with inference(detector, "cpu"):
            assert not cudnn.allow_tf32
        assert cudnn.allow_tf32


def test_heads_are_exact_in_mixed_precision(detector):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with inference(detector, "cpu"):
        exact, mixed = predict(detector, images, "32-true"), predict(detector, images, "bf16-mixed")
        again = detector.heads[-1](mixed.features)
    assert all(plane.dtype == torch.float32 for plane in mixed)
    assert torch.equal(mixed.heatmap, again.heatmap.sigmoid())
    assert not torch.equal(exact.features, mixed.features)
    torch.testing.assert_close(exact.heatmap, mixed.heatmap, atol=0.05, rtol=0)
    # bfloat16 has 8 bits: rounded heads would give far fewer values than cells.
    assert len(mixed.wh.unique()) > 0.95 * mixed.wh.numel()


def test_a_size_that_does_not_suit_and_a_broken_image_are_named(detector, make_records):
    with pytest.raises(UserError, match=r"\[30, 32\]"):
        detect(detector, make_records([(40, 30)]), size_hw=(30, 32))
    records = make_records([(40, 30), (40, 30)])
    records[1].path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.png"):
        detect(detector, records, size_hw=(32, 32), batch=1)
