"""Files of weights of every kind: what is taken, what is refused, and that nothing is executed."""

import gzip
import json
import os
import pickle
import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UserError
from pipeline.models import build_detector, load_detector, save_detector
from pipeline.models.official import our_key

KEYS = json.loads(gzip.decompress((Path(__file__).parent / "data/official_keys.json.gz").read_bytes()))
SLIM = {"deconv": [16, 16, 16], "head_channels": 8}
TINY = {"dims": [8, 12, 16], "modules": [2, 1, 2], "stacks": 2, "stem_channels": 8, "head_channels": 8}


class Touch:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


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
    with pytest.raises(UserError, match=r"coco.pth has 80 classes, expected 3; set reset_heads to true"):
        build_detector("resnet18", 3, weights=path, **SLIM)
    model = build_detector("resnet18", 3, weights=path, reset_heads=True, **SLIM)
    assert torch.equal(model.neck[3].weight, net.deconv_layers[3].weight)
    assert model.heads.heatmap[2].bias.tolist() == pytest.approx([-2.19] * 3)
    assert model.config.color_order == "bgr"

    save_detector(model, tmp_path / "ours.safetensors", ["a", "b", "c"])  # and keeps its input afterwards
    assert load_detector(tmp_path / "ours.safetensors").config.mean == (0.408, 0.447, 0.470)


@pytest.mark.parametrize(("key", "reason"), [
    ("module.deconv_layers.0.conv_offset_mask.weight", "needs deformable convolutions"),
    ("module.dla_up.ida_0.proj_1.conv.conv_offset_mask.weight", "needs deformable convolutions"),
    ("module.ida_up.proj_1.weight", "needs DLA's aggregation"),
])
def test_deformable_checkpoints_are_refused_with_the_reason(key, reason, tmp_path):
    path = tmp_path / "dcn.pth"
    torch.save({"state_dict": {key: torch.zeros(1), "module.hm.0.weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=reason) as error:
        build_detector("resnet18", 3, weights=path)
    assert "not built here" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_torchvision_state_dict_fills_the_body(name, tmp_path):
    classifier = randomise(torchvision.models.get_model(name, weights=None))
    # Old files know no num_batches_tracked.
    state = {k: v for k, v in classifier.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "body.pth")
    model = build_detector(name, 3, weights=tmp_path / "body.pth", **SLIM)
    body = model.body.state_dict()
    assert body
    assert all(torch.equal(value, state[key]) for key, value in body.items() if "num_batches" not in key)
    assert model.config.color_order == "rgb"
    assert model.config.mean == (0.485, 0.456, 0.406)


def test_densenets_published_names_are_understood(tmp_path):
    state = torchvision.models.densenet121(weights=None).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): v for key, v in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet.pth")
    model = build_detector("densenet121", 3, weights=tmp_path / "densenet.pth", **SLIM)
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.body.state_dict()[key], state[key])


class TestOurs:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "weights.safetensors"
        save_detector(randomise(build_detector("hourglass_small", 3)), path, ["a", "b", "c"])
        return path

    def test_continues_from_a_file(self, path):
        model = build_detector("hourglass_small", 3, weights=str(path))
        assert torch.equal(model.stem[0][0].weight, load_detector(path).stem[0][0].weight)
        assert model.config.classes == ("a", "b", "c")

    def test_other_class_count_is_refused_unless_heads_are_reset(self, path):
        with pytest.raises(UserError, match="has 3 classes, expected 5; set reset_heads"):
            build_detector("hourglass_small", 5, weights=path)
        model = build_detector("hourglass_small", 5, weights=path, reset_heads=True)
        assert torch.equal(model.stem[0][0].weight, load_detector(path).stem[0][0].weight)
        assert model.heads[0].heatmap[2].bias.tolist() == pytest.approx([-2.19] * 5)
        assert model.config.classes is None

    def test_reset_heads_may_have_another_width(self, path):
        model = build_detector("hourglass_small", 3, weights=path, reset_heads=True, head_channels=8)
        assert model.heads[0].wh[0].weight.shape[0] == 8

    @pytest.mark.parametrize(("name", "arch", "message"), [
        ("resnet18", {}, "weights.safetensors is a hourglass_small, expected a resnet18"),
        ("hourglass_small", {"stem_channels": 8}, "has arch.stem_channels 32, expected 8"),
        ("hourglass_small", {"head_channels": 8}, "has arch.head_channels 64, expected 8"),
    ])
    def test_other_architecture_is_refused(self, name, arch, message, path):
        with pytest.raises(UserError, match=message):
            build_detector(name, 3, weights=path, **arch)

    def test_truncated_file_is_refused(self, path):
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(UserError, match="is not a safetensors file"):
            load_detector(path)

    @pytest.mark.parametrize("metadata", [
        None, {"centernet_distill_config": "{"}, {"centernet_distill_config": "[]"},
        {"centernet_distill_config": "{}"}, {"other": "1"}])
    def test_strangers_file_is_refused(self, metadata, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
        with pytest.raises(UserError, match="holds no detector's configuration"):
            load_detector(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("failure", [OSError(28, "No space left"), SafetensorError("No space left")])
    def test_failed_write_leaves_nothing_behind(self, failure, path, monkeypatch):
        before = path.read_bytes()

        def full(*_args, **_options):
            path.with_name(path.name + ".partial").touch()
            raise failure

        monkeypatch.setattr("pipeline.models.weights.save_file", full)
        with pytest.raises((OSError, UserError), match="No space left"):
            save_detector(load_detector(path), path, ["a", "b", "c"])
        assert path.read_bytes() == before
        assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", "weights.safetensors"]


class TestRefused:
    @pytest.mark.parametrize("dump", [
        torch.save,
        lambda x, path: path.write_bytes(pickle.dumps(x)),
        lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2)),
    ])
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": {"module.hm.0.weight": x}}])
    def test_malicious_pickle_is_not_executed(self, dump, wrap, tmp_path):
        path, proof = tmp_path / "evil.pth", tmp_path / "executed"
        dump(wrap(Touch(proof)), path)
        with pytest.raises(UserError, match=r"evil.pth is .* executed") as error:
            build_detector("resnet18", 3, weights=path)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)  # torch's own advice is to execute it
        assert not proof.exists()

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 nonsense"])
    def test_bytes_that_are_no_checkpoint(self, content, tmp_path):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(UserError, match="is damaged or no PyTorch file"):
            build_detector("resnet18", 3, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize(("content", "message"), [
        ([1, 2], "holds a list, expected a state_dict"),
        ({}, "holds a dict, expected a state_dict"),
        ({"conv1.weight": 3}, "holds a int under 'conv1.weight'"),
        ({3: torch.zeros(1)}, "holds a Tensor under 3"),
    ])
    def test_other_contents(self, content, message, tmp_path):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match=message):
            build_detector("resnet18", 3, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
    def test_missing_file(self, name, tmp_path):
        with pytest.raises(UserError, match=f"{name}: no such file"):
            build_detector("resnet18", 3, weights=tmp_path / name)

    def test_misfits_are_explained_in_one_line(self, tmp_path):
        state = torchvision.models.resnet18(weights=None).state_dict()
        state["bn1.weight"] = torch.zeros(65)
        state["surprise"] = state.pop("conv1.weight")
        torch.save(state, tmp_path / "body.pth")
        with pytest.raises(UserError) as error:
            build_detector("resnet18", 3, weights=tmp_path / "body.pth")
        message = str(error.value)
        assert "1 missing (conv1.weight)" in message
        assert "1 unexpected (surprise)" in message
        assert "1 of another shape (bn1.weight is [65], expected [64])" in message
        assert "\n" not in message

    def test_body_weights_for_a_net_without_one(self, tmp_path):
        torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "body.pth")
        with pytest.raises(UserError, match="hourglass_small has no torchvision body"):
            build_detector("hourglass_small", 3, weights=tmp_path / "body.pth")


class TestPretrained:
    @pytest.fixture
    def checkpoints(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

        def unreachable(url, *_args, **_options):
            raise URLError("no network")

        monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        return folder

    @pytest.mark.parametrize(("name", "file"), [
        ("resnet50", "resnet50-0676ba61.pth"), ("mobilenet_v2", "mobilenet_v2-b0353104.pth")])
    def test_first_imagenet_weights_are_taken(self, name, file, checkpoints):
        classifier = randomise(torchvision.models.get_model(name, weights=None))
        torch.save(classifier.state_dict(), checkpoints / file)
        model = build_detector(name, 3, pretrained=True, **SLIM)
        state = classifier.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.body.state_dict().items())
        assert model.config.mean == (0.485, 0.456, 0.406)

    def test_failed_download_says_what_to_do(self, checkpoints):
        with pytest.raises(UserError, match="no network") as error:
            build_detector("resnet18", 3, pretrained=True)
        assert str(checkpoints) in str(error.value)
        assert "set pretrained to false" in str(error.value)

    def test_malicious_cache_is_not_executed(self, checkpoints):
        torch.save(Touch(checkpoints / "executed"), checkpoints / "resnet18-f37072fd.pth")
        with pytest.raises(UserError, match=r"not executed: its pickle asks for \w+\.mkdir"):
            build_detector("resnet18", 3, pretrained=True)
        assert not (checkpoints / "executed").exists()

    def test_hourglass_has_none(self):
        with pytest.raises(UserError, match="hourglass_small has no ImageNet weights"):
            build_detector("hourglass_small", 3, pretrained=True)

    def test_excludes_weights(self, tmp_path):
        with pytest.raises(UserError, match="pretrained and weights exclude each other"):
            build_detector("resnet18", 3, pretrained=True, weights=tmp_path / "w.pth")
