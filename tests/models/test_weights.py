"""Files of weights of every kind: what is taken, what is refused, and that nothing is executed."""

import json
import os
import pickle
import re
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.models import build_detector, load_detector, save_detector

SLIM = {"deconv": [16, 16, 16], "head_channels": 8}


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

    def test_others_may_read_what_this_process_lets_them(self, path):
        (path.parent / "beside").touch()
        assert {each.stat().st_mode for each in path.parent.iterdir()} == {(path.parent / "beside").stat().st_mode}

    def test_continues_from_a_file(self, path):
        model = build_detector("hourglass_small", 3, weights=str(path))
        assert torch.equal(model.stem[0][0].weight, load_detector(path).stem[0][0].weight)
        assert model.config.classes == ("a", "b", "c")

    def test_other_class_count_is_refused_unless_heads_are_reset(self, path):
        with pytest.raises(UserError, match=r"has 3 classes \(a, b, c\), expected 5: .*reset_heads: true"):
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
        {"centernet_distill_config": "{}"}, {"centernet_distill_config": "[" * 100_000}, {"other": "1"}])
    def test_strangers_file_is_refused(self, metadata, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
        with pytest.raises(UserError, match="holds no detector's configuration"):
            load_detector(tmp_path / "w.safetensors")

    @pytest.mark.parametrize(("key", "value"), [
        ("arch", {"reset_heads": True}), ("arch", {"weights": "/etc/passwd"}), ("arch", {"pretrained": True}),
        ("arch", [1]), ("model", ["resnet18"]), ("num_classes", True), ("num_classes", 0), ("classes", 3),
        ("mean", 3), ("mean", [0.5, 0.5, float("nan")]), ("std", [0.0, 0.0, 0.0]), ("std", [0.2, 0.2]),
        ("color_order", "xyz")])
    def test_a_configuration_of_other_values_is_refused(self, key, value, path):
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["centernet_distill_config"])
        save_file(load_file(path), path, {"centernet_distill_config": json.dumps({**config, key: value})})
        with pytest.raises(UserError, match=rf"holds no detector's configuration in its metadata \({key}"):
            load_detector(path)

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

    @pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O"), MemoryError()])
    def test_a_file_that_cannot_be_read_is_not_called_damaged(self, error, tmp_path, monkeypatch):
        (tmp_path / "w.pth").write_bytes(b"whole")
        monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)) as caught:
            build_detector("resnet18", 3, weights=tmp_path / "w.pth")
        assert caught.value is error

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

    @pytest.mark.parametrize("name", ["folder.pth", "folder.safetensors"])
    def test_folder(self, name, tmp_path):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=f"{name} is a folder, expected a file"):
            build_detector("resnet18", 3, weights=tmp_path / name)

    @pytest.mark.parametrize(("name", "words"), [
        ("resnet18", ["keys are none that are known", "of a resnet18"]), ("hourglass_small", ["holds no CenterNet"])])
    def test_keys_of_another_framework(self, name, words, tmp_path):
        keys = ["backbone.conv1.weight", "neck.deconv_layers.0.weight", "bbox_head.heatmap_head.2.weight"]
        torch.save({"meta": {}, "state_dict": {key: torch.zeros(1) for key in keys}}, tmp_path / "mmdet.pth")
        with pytest.raises(UserError) as error:
            build_detector(name, 3, weights=tmp_path / "mmdet.pth")
        for word in [*words, "'backbone.conv1.weight', 'neck.deconv_layers.0.weight', …", "(.safetensors)", "hm, wh"]:
            assert word in str(error.value)

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
