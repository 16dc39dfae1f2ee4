"""Official checkpoints: their names and shapes, and that the same numbers give the same outputs."""

import gzip
import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.errors import UserError
from pipeline.models import build_detector, load_detector, save_detector
from pipeline.models.official import our_key

KEYS = json.loads(gzip.decompress((Path(__file__).parent / "data/official_keys.json.gz").read_bytes()))
SLIM = {"deconv": [16, 16, 16], "head_channels": 8}
TINY = {"dims": [8, 12, 16], "modules": [2, 1, 2], "stacks": 2, "stem_channels": 8, "head_channels": 8}


def randomise(module):
    """Give every number of a module a value of its own, so that no mix-up can hide."""
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in key else value.normal_(std=0.2)
    return module.eval()


def official_file(path, state):
    torch.save({"epoch": 70, "state_dict": {f"module.{k}": v for k, v in state.items()},
                "optimizer": {"state": {}, "param_groups": [{"lr": 1.25e-4}]}}, path)
    return path


# --- the official networks, written once more under the official names -----------------------


def conv_bn(i, o, k, stride=1):
    conv = nn.Conv2d(i, o, k, stride, padding=k // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o))


class Named(nn.Module):
    """Modules by name, run by a function of itself and the input."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def official_conv(i, o, k, stride=1, bn=True):
    modules = {"conv": nn.Conv2d(i, o, k, stride, padding=k // 2, bias=not bn)}
    if bn:
        modules["bn"] = nn.BatchNorm2d(o)
    return Named(lambda m, x: (m.bn(m.conv(x)) if bn else m.conv(x)).relu(), **modules)


def official_residual(i, o, stride=1):
    skip = conv_bn(i, o, 1, stride) if stride != 1 or i != o else nn.Sequential()
    return Named(
        lambda m, x: (m.bn2(m.conv2(m.bn1(m.conv1(x)).relu())) + m.skip(x)).relu(),
        conv1=nn.Conv2d(i, o, 3, stride, padding=1, bias=False), bn1=nn.BatchNorm2d(o),
        conv2=nn.Conv2d(o, o, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(o), skip=skip)


def official_level(dims, modules):
    (a, b), n = dims[:2], modules[0]

    def chain(count):
        return [official_residual(b, b) for _ in range(count)]

    return Named(
        lambda m, x: m.up1(x) + nn.Upsample(scale_factor=2)(m.low3(m.low2(m.low1(x)))),
        up1=nn.Sequential(*(official_residual(a, a) for _ in range(n))),
        low1=nn.Sequential(official_residual(a, b, 2), *chain(n - 1)),
        low2=official_level(dims[1:], modules[1:]) if len(dims) > 2 else nn.Sequential(*chain(modules[1])),
        low3=nn.Sequential(*chain(n - 1), official_residual(b, a)))


def official_hourglass(num_classes, dims, modules, stacks, stem_channels, head_channels):
    d = dims[0]

    def several(make, count=stacks):
        return nn.ModuleList(make() for _ in range(count))

    def head(planes):
        return lambda: nn.Sequential(official_conv(d, head_channels, 3, bn=False),
                                     nn.Conv2d(head_channels, planes, 1))

    def run(m, x):
        x, outputs = m.pre(x), []
        for s in range(stacks):
            features = m.cnvs[s](m.kps[s](x))
            outputs.append((m.hm[s](features), m.wh[s](features), m.reg[s](features), features))
            if s < stacks - 1:
                x = m.inters[s]((m.inters_[s](x) + m.cnvs_[s](features)).relu())
        return outputs

    return Named(
        run, pre=nn.Sequential(official_conv(3, stem_channels, 7, 2), official_residual(stem_channels, d, 2)),
        kps=several(lambda: official_level(dims, modules)), cnvs=several(lambda: official_conv(d, d, 3)),
        inters=several(lambda: official_residual(d, d), stacks - 1),
        inters_=several(lambda: conv_bn(d, d, 1), stacks - 1),
        cnvs_=several(lambda: conv_bn(d, d, 1), stacks - 1),
        hm=several(head(num_classes)), wh=several(head(2)), reg=several(head(2)))


def official_resnet(name, num_classes, deconv, head_channels):
    net = torchvision.models.get_model(name, weights=None)
    channels, layers = net.fc.in_features, []
    for width in deconv:
        layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    net.fc = nn.Identity()
    net.deconv_layers = nn.Sequential(*layers)
    for head, planes in (("hm", num_classes), ("reg", 2), ("wh", 2)):
        net.add_module(head, nn.Sequential(nn.Conv2d(channels, head_channels, 3, padding=1), nn.ReLU(),
                                           nn.Conv2d(head_channels, planes, 1)))

    def run(x):
        x = net.maxpool(net.bn1(net.conv1(x)).relu())
        features = net.deconv_layers(net.layer4(net.layer3(net.layer2(net.layer1(x)))))
        return [(net.hm(features), net.wh(features), net.reg(features), features)]

    net.forward = run
    return net


OFFICIAL = {
    "resnet18": (lambda: official_resnet("resnet18", 3, **SLIM), SLIM),
    "resnet50": (lambda: official_resnet("resnet50", 3, **SLIM), SLIM),
    "hourglass104": (lambda: official_hourglass(3, **TINY), TINY),
}


@pytest.mark.parametrize("name", KEYS)
def test_official_keys_and_shapes_are_ours_one_to_one(name):
    with torch.device("meta"):
        ours = {key: list(value.shape) for key, value in build_detector(name, 20).state_dict().items()}
    assert {our_key(key): shape for key, shape in KEYS[name]} == ours


def test_reference_hourglass_has_the_official_keys():
    with torch.device("meta"):
        net = official_hourglass(20, [256, 256, 384, 384, 384, 512], [2, 2, 2, 2, 2, 4], 2, 128, 256)
    assert sorted([k, list(v.shape)] for k, v in net.state_dict().items()) == sorted(KEYS["hourglass104"])


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoint_gives_the_official_outputs(name, tmp_path):
    make, arch = OFFICIAL[name]
    net = randomise(make())
    path = official_file(tmp_path / "ctdet.pth", net.state_dict())
    model = build_detector(name, 3, weights=path, **arch).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model(images), net(images), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
    assert model.config.color_order == "bgr"
    assert model.config.mean == (0.408, 0.447, 0.470)
    assert model.config.std == (0.289, 0.274, 0.278)


def test_official_checkpoint_of_other_classes_lends_its_body(tmp_path):
    net = randomise(official_resnet("resnet18", 80, **SLIM))
    path = official_file(tmp_path / "coco.pth", net.state_dict())
    with pytest.raises(UserError, match=r"coco.pth has 80 classes, expected 3: .* reset_heads: true, .*all 80,"):
        build_detector("resnet18", 3, weights=path, **SLIM)
    model = build_detector("resnet18", 3, weights=path, reset_heads=True, **SLIM)
    assert torch.equal(model.neck[3].weight, net.deconv_layers[3].weight)
    assert model.heads.heatmap[2].bias.tolist() == pytest.approx([-2.19] * 3)
    assert model.config.color_order == "bgr"

    save_detector(model, tmp_path / "ours.safetensors", ["a", "b", "c"])  # and keeps its input afterwards
    assert load_detector(tmp_path / "ours.safetensors").config.mean == (0.408, 0.447, 0.470)


def test_another_architecture_is_named_before_its_classes(tmp_path):
    path = official_file(tmp_path / "coco.pth", official_resnet("resnet18", 80, **SLIM).state_dict())
    for name, arch in (("resnet34", SLIM), ("hourglass_small", {})):
        with pytest.raises(UserError, match=f"coco.pth is of another architecture than {name}; keys: "):
            build_detector(name, 3, weights=path, **arch)


@pytest.mark.parametrize(("keys", "held"), [
    (["deconv_layers.0.conv_offset_mask.weight", "hm.0.weight"], r"deformable convolutions \(DCN\)"),
    (["base.base_layer.0.weight", "dla_up.ida_0.proj_1.conv.conv_offset_mask.weight", "hm.2.weight"], "a DLA body"),
    (["base.base_layer.0.weight", "hm.2.weight"], "a DLA body"),
    (["ida_up.proj_1.weight", "hm.0.weight"], "a DLA body"),
    (["base_layer.0.weight", "level0.0.weight"], "a DLA body"),
])
@pytest.mark.parametrize("name", ["resnet18", "hourglass_small"])
def test_checkpoints_of_what_is_not_built_are_refused_with_the_reason(name, keys, held, tmp_path):
    path = tmp_path / "dla.pth"
    torch.save({"state_dict": {f"module.{key}": torch.zeros(80, 1, 1, 1) for key in keys}}, path)
    with pytest.raises(UserError, match=rf"dla.pth holds {held}, not supported here; expected hourglass104") as error:
        build_detector(name, 3, weights=path)
    assert "\n" not in str(error.value)
