"""Ensembles by every rule, as commands."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.params import load_params
from stages import build_ensemble
from storage import open_store

DISTILL = ["distill", "--student", "mobilenet_v2", "--recipe", "resnet18+hourglass_small"]
KINDS = ("max", "confidence", "class-ap", "agreement")


def build(pipeline, folder, kind, *more):
    answer = pipeline("build-ensemble", "--json", "--set", f"ensembles.both.heatmap={kind}", *more, folder=folder)
    return json.loads(answer)["both"]


def test_each_rule_makes_another_store(line, pipeline):
    heatmaps = {}
    for kind in ("mean", *KINDS):
        answer = build(pipeline, line, kind)
        store = open_store(line / "targets/ensemble-both.zarr")
        assert answer == {"views": 48, "fingerprint": store.fingerprint}
        assert store.spec.identity["heatmap"] == kind
        heatmaps[kind] = store.decode("heatmap", store.read("heatmap", range(48)))
    for kind in ("max", "confidence"):  # teachers of two epochs have no AP and no boxes to weigh by: test_scores.py
        assert not np.array_equal(heatmaps[kind], heatmaps["mean"])
    assert np.all(heatmaps["confidence"] >= heatmaps["mean"] - 0.01)
    assert np.all(heatmaps["max"] >= heatmaps["confidence"] - 0.01)
    pipeline(*DISTILL, "--restart", "--set", "ensembles.both.heatmap=agreement", folder=line)


def test_a_student_refuses_an_ensemble_of_another_rule(line, monkeypatch):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [*DISTILL, "--set", "ensembles.both.heatmap=max"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'heatmap is "mean", expected "max"' in result.stderr
    assert result.stderr.endswith("Run 'pipeline build-ensemble both' again.\n")


def test_an_ensemble_is_scored_by_its_rule_and_not_where_it_looks_at_the_truth(line, pipeline):
    metrics = line / "results/ensembles/both/metrics.json"
    before = json.loads(metrics.read_text())
    assert before["val"]["per_class"].keys() == before["per_class"].keys()
    pipeline("evaluate", "--set", "ensembles.both.heatmap=class-ap", folder=line)
    assert json.loads(metrics.read_text())["fingerprint"] != before["fingerprint"]
    pipeline("evaluate", "--set", "ensembles.both.heatmap=agreement", folder=line)
    scored = json.loads(metrics.read_text())
    assert (scored.get("map_area"), scored["val"], scored["unseen"]) == (None, None, None)


@pytest.mark.parametrize(("damaged", "words"), [
    ("<<<<<<< HEAD", "is not valid JSON"), ("{}", "has no 'val'"),
    ('{"val": {"x": 1}, "data": "demo"}', "has no AP of each class on val")])
def test_class_ap_needs_whole_scores(line, monkeypatch, damaged, words):
    """Which the command makes first, and DVC's stage finds."""
    (line / "results/teachers/resnet18/metrics.json").write_text(damaged)
    monkeypatch.chdir(line)
    with pytest.raises(UserError, match=rf"resnet18/metrics\.json {words}.*Run 'pipeline evaluate' again\."):
        build_ensemble.run(load_params(Path("params.yaml"), ["ensembles.both.heatmap=class-ap"]), "both")


def test_class_ap_needs_a_val_split(line, monkeypatch):
    path, manifest = line / "data/demo/annotations.json", line / "data/demo/manifest.json"
    tree = json.loads(path.read_text())
    del tree["splits"]["val"]
    path.write_text(json.dumps(tree))
    changed = {**json.loads(manifest.read_text()), "fingerprint": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(changed))
    monkeypatch.chdir(line)
    before = (line / "targets/ensemble-both.zarr/manifest.json").read_bytes()
    result = CliRunner().invoke(main, ["build-ensemble", "--set", "ensembles.both.heatmap=class-ap"])
    assert (result.exit_code, result.stdout) == (1, "")
    for word in ("ensembles.both.heatmap", "'demo' has no val split", "data.val_fraction"):
        assert word in result.stderr.splitlines()[-1]
    assert (line / "targets/ensemble-both.zarr/manifest.json").read_bytes() == before
