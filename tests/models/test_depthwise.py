import pytest
import torch
import torchvision
from torch import nn

from pipeline.models.bodies import build_body
from pipeline.models.depthwise import DepthwiseConv2d, train_depthwise_in_float32


def convolution(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, **options))
    train_depthwise_in_float32(net)
    return net, torch.randn(2, 8, 6, 6)


def test_gradients_in_bfloat16_are_those_of_float32_and_of_a_rounded_answer():
    net, images = convolution(stride=2)
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
    net, images = convolution(bias=False)
    torchs = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False))
    torchs.load_state_dict(net.state_dict())
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=not training):
        assert torch.equal(net(images), torchs(images))


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_bodies_train_all_theirs_so_and_begin_as_torchvisions(name):
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, weights=None).state_dict()
    torch.manual_seed(3)
    body, _ = build_body(name)
    assert all(torch.equal(value, theirs[key]) for key, value in body.state_dict().items())
    kinds = {type(module) for module in body.modules() if isinstance(module, nn.Conv2d) and module.groups > 1}
    assert kinds == {DepthwiseConv2d}


def test_groups_of_several_channels_stay_torchs():
    body, _ = build_body("regnet_x_400mf")
    assert not any(isinstance(module, DepthwiseConv2d) for module in body.modules())
