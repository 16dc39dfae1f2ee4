"""Teachers with test-time augmentation, as commands."""

import json

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from storage import open_store

BOTH = "resnet18+hourglass_small"
TTA = ("--set", "dump.tta={flip: true, scales: [0.5, 1]}")


def test_students_learn_from_merged_passes_and_the_store_is_verified_with_them(line, pipeline):
    planned = json.loads(pipeline("dump-teachers", "--dry-run", "--json", *TTA, folder=line))
    assert planned["resnet18"]["views"] == 48  # the plain dump lends nothing
    before = open_store(line / "targets/resnet18.zarr").fingerprint
    pipeline("dump-teachers", *TTA, folder=line)
    store = open_store(line / "targets/resnet18.zarr")
    assert store.spec.identity["tta"] == {"flip": True, "scales": [0.5, 1.0]}
    assert store.fingerprint != before
    live = json.loads(pipeline("store", "verify", "targets/resnet18.zarr", "--live", "6", "--json", folder=line))
    assert live["live"]["ok"]
    pipeline("build-ensemble", *TTA, folder=line)
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", BOTH, "--restart", *TTA, folder=line)


@pytest.mark.parametrize("command", [["build-ensemble"], ["distill", "--student", "mobilenet_v2", "--recipe", BOTH]])
def test_stores_of_other_passes_are_refused(line, monkeypatch, command):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [*command, *TTA])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "tta" in result.stderr
    assert "dump-teachers" in result.stderr


def test_a_scale_that_suits_no_network_is_named(line, monkeypatch):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, ["dump-teachers", "--set", "dump.tta.scales=[1, 1.3]"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "dump.tta.scales: 1.3 times views.size [64, 64] does not fit resnet18" in result.stderr.splitlines()[-1]
