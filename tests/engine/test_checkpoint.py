"""The file that a killed run continues from."""

import os
import pickle

import pytest
import torch
from lightning_fabric.plugins import Precision
from torch import nn

from pipeline.engine.checkpoint import RunState
from pipeline.engine.optimization import MovingAverage
from pipeline.errors import UserError


def state_of(step=0):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return RunState(net, optimizer, MovingAverage(net.parameters(), 0.9), Precision(), step, 1.5, {"loss": 2.0})


def test_everything_comes_back(tmp_path):
    path = tmp_path / "checkpoint.pt"
    written, read = state_of(7), state_of()
    written.write(path, "me", is_writer=True)
    read.read(path, "me")
    assert (read.step, read.seconds, read.losses) == (7, 1.5, {"loss": 2.0})
    assert torch.equal(read.module.weight, written.module.weight)
    assert torch.equal(read.average.values[0], written.average.values[0])
    moments = [s.optimizer.state_dict()["state"][0]["exp_avg"] for s in (read, written)]
    assert torch.equal(*moments)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_no_checkpoint_changes_nothing(tmp_path):
    state = state_of()
    state.read(tmp_path / "checkpoint.pt", "me")
    assert state.step == 0


def test_only_the_writer_writes(tmp_path):
    state_of().write(tmp_path / "checkpoint.pt", "me", is_writer=False)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    state_of(7).write(path, "me", is_writer=True)

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        state_of(8).write(path, "me", is_writer=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    state = state_of()
    state.read(path, "me")
    assert state.step == 7


def test_torch_does_not_hide_that_the_disk_is_full(tmp_path):
    (tmp_path / "checkpoint.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        state_of(7).write(tmp_path / "checkpoint.pt", "me", is_writer=True)
    assert not isinstance(caught.value, RuntimeError)
    assert os.listdir(tmp_path) == []


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04 no archive", pickle.dumps(Malicious()), pickle.dumps([1, 2])])
def test_a_file_that_is_no_checkpoint_is_named_and_never_executed(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pt is no readable checkpoint; remove it"):
        state_of().read(path, "me")
    assert not (tmp_path / "executed").exists()


def test_a_malicious_object_inside_a_torch_file_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "identity": "me", "step": Malicious()}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="no readable checkpoint"):
        state_of().read(tmp_path / "checkpoint.pt", "me")
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused(tmp_path):
    torch.save({"format": 99, "identity": "me"}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"format 99.*expected format 2"):
        state_of().read(tmp_path / "checkpoint.pt", "me")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_not_written(tmp_path, value):
    state = state_of(3)
    nn.init.constant_(state.module.bias, value)
    with pytest.raises(UserError, match="by step 3"):
        state.write(tmp_path / "checkpoint.pt", "me", is_writer=True)
    assert os.listdir(tmp_path) == []


def test_weights_that_are_broken_on_another_process_are_not_written(tmp_path):
    with pytest.raises(UserError, match="by step 3"):
        state_of(3).write(tmp_path / "checkpoint.pt", "me", True, lambda share: share + 0.5)
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"whole")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read: Permission denied"):
        state_of().read(path, "me")
