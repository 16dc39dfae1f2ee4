import pytest
import torch
import torchvision
from torch import nn

from pipeline.models import build_detector
from pipeline.models.bodies import build_body
from pipeline.models.convolutions import (
    DepthwiseConv2d,
    FewCellsConv2d,
    FewCellsConvTranspose2d,
    suit_cpus,
)


def depthwise(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, **options))
    suit_cpus(net)
    return net, torch.randn(2, 8, 6, 6)


def test_gradients_in_bfloat16_are_those_of_float32_and_of_a_rounded_answer():
    net, images = depthwise(stride=2)
    exact = net(images)
    exact.backward(exact.detach().bfloat16().float() * 2)
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        answer = net(images)
        answer.float().square().sum().backward()
    assert answer.dtype == torch.bfloat16
    assert torch.equal(answer, exact.bfloat16())
    torch.testing.assert_close(net[0].weight.grad, expected, rtol=8e-3, atol=1e-3)  # what comes in is rounded


@pytest.mark.parametrize("training", [True, False])
def test_elsewhere_it_is_torchs(training):
    net, images = depthwise(bias=False)
    torchs = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False))
    torchs.load_state_dict(net.state_dict())
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=not training):
        assert torch.equal(net(images), torchs(images))


FEW = {
    "3x3": (nn.Conv2d, (32, 48, 3), {"padding": 1, "bias": False}, (3, 3)),
    "1x1": (nn.Conv2d, (48, 32, 1), {}, (2, 4)),
    "strides": (nn.Conv2d, (32, 48, (3, 5)), {"stride": (2, 1), "padding": (1, 0)}, (5, 6)),
    "deconvolution": (nn.ConvTranspose2d, (48, 16, 4), {"stride": 2, "padding": 1, "bias": False}, (2, 3)),
    "no square": (nn.ConvTranspose2d, (48, 16, (2, 4)), {"stride": (2, 3), "padding": (0, 1), "bias": False}, (3, 2)),
}


def pair(name, layout=torch.channels_last):
    """(torch's layer, ours of the same weights, images of few cells)."""
    kind, channels, options, size = FEW[name]
    torch.manual_seed(0)
    torchs = kind(*channels, **options).to(memory_format=layout)
    ours = nn.Sequential(kind(*channels, **options))
    ours[0].load_state_dict(torchs.state_dict())
    suit_cpus(ours.to(memory_format=layout))
    assert type(ours[0]) in {FewCellsConv2d, FewCellsConvTranspose2d}
    return torchs, ours[0], torch.randn(2, channels[0], *size).to(memory_format=layout)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_product_of_matrices_says_what_the_convolution_says(name, layout):
    torchs, ours, images = pair(name, layout)
    gradients = []
    for layer in (torchs, ours):
        given = images.clone().requires_grad_()
        answer = layer(given)
        answer.sin().sum().backward()
        gradients.append([answer.detach(), given.grad, *(p.grad for p in layer.parameters())])
        for p in layer.parameters():  # as a fused Adam takes for granted
            assert all(mine == theirs for size, mine, theirs in zip(p.shape, p.grad.stride(), p.stride(), strict=True)
                       if size > 1)
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_a_product_of_matrices_answers_in_autocasts_type(name):
    torchs, ours, images = pair(name)
    with torch.autocast("cpu", torch.bfloat16):
        answer, theirs = ours(images), torchs(images)
    assert answer.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(answer, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", FEW)
def test_only_training_with_few_cells_is_a_product(name, monkeypatch):
    torchs, ours, images = pair(name)
    many = images.repeat(24, 1, 1, 1)
    monkeypatch.setattr(nn.functional, "linear", None)
    monkeypatch.setattr(nn.functional, "fold", None)
    with pytest.raises(TypeError):
        ours(images)
    assert torch.equal(ours(many), torchs(many))
    with torch.no_grad():
        assert torch.equal(ours(images), torchs(images))
    assert torch.equal(ours.eval()(images), torchs(images))


def test_what_is_no_plain_convolution_stays_torchs():
    kinds = [nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, dilation=2), nn.Conv2d(8, 8, 3, padding="same"),
             nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(8, 8, 4, groups=2),
             nn.ConvTranspose2d(8, 8, 4, 2, bias=False, output_padding=1), nn.ConvTranspose2d(8, 8, 4)]
    suit_cpus(nn.Sequential(*kinds))
    assert {type(layer) for layer in kinds} == {nn.Conv2d, nn.ConvTranspose2d}


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_detectors_train_all_depthwise_ones_so_and_begin_as_torchvisions(name):
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, weights=None).state_dict()
    torch.manual_seed(3)
    body, _ = build_body(name)
    assert all(torch.equal(value, theirs[key]) for key, value in body.state_dict().items())
    layers = [module for module in build_detector(name, 2).modules() if isinstance(module, nn.Conv2d)]
    assert {type(layer) for layer in layers if layer.groups > 1} == {DepthwiseConv2d}
    assert {type(layer) for layer in layers if layer.groups == 1} == {FewCellsConv2d}


def test_groups_of_several_channels_stay_torchs():
    assert not any(isinstance(module, DepthwiseConv2d) for module in build_detector("regnet_x_400mf", 2).modules())
