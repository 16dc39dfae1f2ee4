"""The contract that every detector keeps, whatever its name, and what is particular to some."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.models import (
    available_models,
    build_detector,
    check_size,
    decode_detections,
    detector_config,
    load_detector,
    preprocess,
    save_detector,
)
from pipeline.models.registry import MODELS

SLIM = {"deconv": [16, 16, 16], "head_channels": 8}
SLIM_104 = {"dims": [8, 8, 12, 12, 12, 16], "modules": [1] * 6, "stem_channels": 8, "head_channels": 8}
# The project's own and some of torchvision's; decoders are slim to be fast.
DETECTORS = {
    **dict.fromkeys(["resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet_b0"], SLIM),
    "hourglass104": SLIM_104,
    "hourglass_small": {},
    **dict.fromkeys(["convnext_tiny", "mobilenet_v3_small"], SLIM),
}
CLASSES = ["cat", "dog", "bird"]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", DETECTORS)
class TestEveryDetector:
    @pytest.fixture
    def model(self, name):
        torch.manual_seed(0)
        return build_detector(name, len(CLASSES), **DETECTORS[name])

    @pytest.fixture
    def images(self, model):
        m = model.config.size_multiple
        return torch.randn(2, 3, m, 2 * m, generator=torch.Generator().manual_seed(1))

    def test_outputs_have_the_shapes_that_the_config_states(self, name, model, images):
        config = model.config
        assert (config.model, config.num_classes, config.stride) == (name, len(CLASSES), 4)
        check_size(config, (images.shape[2], images.shape[3]))
        h, w = images.shape[2] // 4, images.shape[3] // 4
        for outputs in model(images):
            assert outputs.heatmap.shape == (2, len(CLASSES), h, w)
            assert outputs.wh.shape == outputs.offset.shape == (2, 2, h, w)
            assert outputs.features.shape == (2, config.feature_channels, h, w)

    def test_starts_with_a_calm_heatmap(self, model, images):
        for outputs in model(images):
            assert (outputs.heatmap.sigmoid() - 0.1).abs().max() < 0.02
            assert outputs.wh.abs().max() < 0.2

    def test_gradients_flow_to_every_parameter(self, model, images):
        outputs = model(images)
        # Squares, because a BatchNorm's plain sum has no gradient with respect to what enters it.
        sum((x ** 2).sum() for stack in outputs for x in stack).backward()
        assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_save_and_load_round_trip_is_bit_equal(self, model, tmp_path):
        for buffer in model.buffers():
            buffer.add_(1)
        path = tmp_path / "weights.safetensors"
        save_detector(model.to(memory_format=torch.channels_last), path, CLASSES)
        again = load_detector(path)
        assert again.config.classes == tuple(CLASSES)
        assert again.config.arch == model.config.arch
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
        assert json.loads((tmp_path / "config.json").read_text()) == {
            **again.config.to_json(), "params": parameters(model)}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]

    def test_evaluation_is_deterministic(self, model, images):
        model.eval()
        with torch.no_grad():
            for a, b in zip(model(images), model(images), strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    def test_runs_under_bf16_autocast_and_decodes_in_float32(self, model, images):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            out = model.eval()(images)[-1]
            detections = decode_detections(out.heatmap.sigmoid(), out.wh, out.offset, 7)
        assert detections.shape == (2, 7, 6)
        assert detections.dtype == torch.float32


@pytest.mark.parametrize(("name", "count"), [
    ("resnet18", 15_816_472),
    ("resnet34", 25_924_632),
    ("resnet50", 34_439_448),
    ("hourglass104", 191_253_168),
])
def test_parameter_counts_are_the_official_ones(name, count):
    with torch.device("meta"):
        assert parameters(build_detector(name, 20)) == count


def test_hourglass_small_is_small():
    assert parameters(build_detector("hourglass_small", 20)) == pytest.approx(3.8e6, rel=0.02)


def test_narrow_decoder_gives_mobilenet_its_share_of_resnet50():
    with torch.device("meta"):
        light, heavy = (parameters(build_detector(name, 20, deconv=[256, 128, 64]))
                        for name in ("mobilenet_v2", "resnet50"))
    assert 100 * (1 - light / heavy) == pytest.approx(74.8, abs=0.1)


def test_hourglass104_has_two_stacks_at_stride_4_of_multiples_of_128():
    with torch.device("meta"):
        model = build_detector("hourglass104", 20)
        outputs = model(torch.zeros(1, 3, 128, 256))
    assert [o.heatmap.shape for o in outputs] == [(1, 20, 32, 64)] * 2
    assert model.config.size_multiple == 128
    assert model.config.feature_channels == 256


@pytest.mark.parametrize("name", [
    "densenet121", "mnasnet0_5", "resnext50_32x4d", "shufflenet_v2_x0_5", "vgg11", "wide_resnet50_2"])
def test_other_classifiers_are_bodies_too(name):
    with torch.device("meta"):
        assert build_detector(name, 2)(torch.zeros(2, 3, 64, 96))[0].heatmap.shape == (2, 2, 16, 24)


def test_regnets_are_bodies_too():  # which cannot be built on the meta device
    model = build_detector("regnet_y_400mf", 2, **SLIM)
    assert model(torch.zeros(2, 3, 64, 64))[0].wh.shape == (2, 2, 16, 16)
    before = torch.get_rng_state()
    assert detector_config("regnet_y_400mf", 2, **SLIM) == model.config
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mobilenet_v2", "hourglass_small"])
def test_forward_can_be_exported(name):
    model = build_detector(name, 2, **DETECTORS[name]).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        for ours, theirs in zip(model(images), exported(images), strict=True):
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_number_of_deconvolutions_decides_the_stride():
    model = build_detector("resnet18", 2, deconv=[16, 8], head_channels=0)
    assert model.config.stride == 8
    outputs = model(torch.zeros(2, 3, 64, 64))[0]
    assert outputs.heatmap.shape == (2, 2, 8, 8)
    assert len(model.heads.wh) == 1


def test_deconvolutions_start_as_smooth_upsampling():
    model = build_detector("resnet18", 2, **SLIM)
    flat = model.neck[0](torch.ones(1, 512, 6, 6))[..., 1:-1, 1:-1]
    assert torch.allclose(flat, flat[..., :1, :1].expand_as(flat), atol=1e-5)


def test_same_seed_builds_the_same_detector():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_detector("hourglass_small", 2).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_own_names_come_first():
    assert available_models()[:7] == list(DETECTORS)[:7]
    assert set(DETECTORS) <= set(available_models())
    assert len(set(available_models())) == len(available_models())


@pytest.mark.parametrize(("name", "arch", "message"), [
    ("resnet19", {}, "Model 'resnet19' is unknown. Did you mean 'resnet18'? The nearest of"),
    ("vit_b_16", {}, "Model 'vit_b_16' is unknown"),
    ("swin_t", {}, "Model 'swin_t' is unknown"),
    ("resnet18", {"deconvs": [8]}, "option of arch 'deconvs' is unknown. Did you mean 'deconv'?"),
    ("resnet18", {"dims": [8]}, "option of arch 'dims' is unknown"),
    ("resnet18", {"deconv": []}, "arch.deconv has 0 entries, expected 1 to 5"),
    ("resnet18", {"deconv": [8] * 6}, "arch.deconv has 6 entries, expected 1 to 5"),
    ("resnet18", {"deconv": [8, 0, 8]}, "arch.deconv is [8, 0, 8], expected a list of integers, each 1"),
    ("resnet18", {"deconv": 8}, "arch.deconv is 8, expected a list of integers"),
    ("resnet18", {"deconv": "888"}, "arch.deconv is '888', expected a list of integers"),
    ("resnet18", {"head_channels": -1}, "arch.head_channels is -1, expected an integer of 0 or more"),
    ("resnet18", {"head_channels": True}, "arch.head_channels is True, expected an integer"),
    ("hourglass_small", {"stacks": 0}, "arch.stacks is 0, expected an integer of 1 or more"),
    ("hourglass_small", {"dims": [8, 8]}, "arch.dims has 2 entries and arch.modules 4"),
    ("hourglass_small", {"dims": [8], "modules": [1]}, "expected two or more"),
])
def test_unknown_names_and_options_are_refused(name, arch, message):
    with pytest.raises(UserError) as error:
        build_detector(name, 2, **arch)
    assert message in str(error.value)


def test_a_detector_of_nothing_is_refused():
    with pytest.raises(UserError, match="at least one class, got 0"):
        build_detector("resnet18", 0)


@pytest.mark.parametrize(("size", "nearest"), [
    ((100, 64), "[96, 64]"),
    ((0, 32), "[32, 32]"),
    ((32, 33), "[32, 32]"),
])
def test_sizes_that_do_not_fit_are_refused(size, nearest):
    config = build_detector("hourglass_small", 2).config
    check_size(config, (64, 96))
    with pytest.raises(UserError, match="multiples of 32") as error:
        check_size(config, size)
    assert nearest in str(error.value)


def test_preprocess_normalises_in_the_colour_order_of_the_config():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    config = build_detector("hourglass_small", 2).config
    rgb = preprocess(images, config)
    assert rgb.dtype == torch.float32
    red = (images[:, 0] / 255 - 0.485) / 0.229
    assert torch.allclose(rgb[:, 0], red)

    official = config.with_official_input()
    bgr = preprocess(images, official)
    blue = (images[:, 2] / 255 - 0.408) / 0.289
    assert official.color_order == "bgr"
    assert torch.allclose(bgr[:, 0], blue)
    assert images.dtype == torch.uint8


def test_preprocess_brings_its_numbers_to_the_device_once(monkeypatch):
    config = build_detector("hourglass_small", 2).config
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with torch.inference_mode():
        expected = preprocess(images, config)
    for name in ("tensor", "as_tensor", "from_numpy"):  # a copy from the CPU in every step keeps a GPU waiting
        monkeypatch.delattr(torch, name)
    weight = torch.ones(3, 1, 1, requires_grad=True)
    (preprocess(images, config) * weight).sum().backward()
    assert torch.equal(preprocess(images, config), expected)
    floats = images.float()
    preprocess(floats, config)
    assert not floats.any()


def test_weights_in_the_file_are_the_models_own(tmp_path):
    model = build_detector("hourglass_small", 3)
    save_detector(model, tmp_path / "w.safetensors", CLASSES)
    assert load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()


def test_the_network_in_the_docs_is_a_detector_like_the_others(tmp_path, monkeypatch):
    text = Path(__file__).parents[2].joinpath("docs/networks.md").read_text()
    (tmp_path / "mine.py").write_text(text.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    mine = import_module("mine")
    monkeypatch.setitem(MODELS, "mine", (mine.MineDetector, mine.MineArch()))
    model = build_detector("mine", 3, width=8)
    assert model(torch.zeros(2, 3, 32, 64))[-1].heatmap.shape == (2, 3, 8, 16)
    save_detector(model, tmp_path / "mine.safetensors", CLASSES)
    again = load_detector(tmp_path / "mine.safetensors")
    assert again.config == replace(model.config, classes=tuple(CLASSES))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
