import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.store import ranges
from storage import ArraySpec, StoreSpec, create_store

SPEC = StoreSpec(
    arrays=(ArraySpec("heatmap", (2, 3, 4), encoding="exact-fp16"), ArraySpec("record", (), "int64")),
    views=11, shard_views=4,
    identity={"kind": "teacher", "teacher": "resnet50", "weights": "ab", "classes": ["a", "b"]},
    attributes={"licence": "CC0"})


@pytest.fixture
def write(tmp_path):
    """Writes some shards of a store, or all of them and the manifest."""

    def write(shards=None):
        writer = create_store(tmp_path / "t.zarr", SPEC)
        for shard in range(SPEC.shards) if shards is None else shards:
            with writer.claim(shard) as claim:
                for view in claim.views:
                    claim.append({"heatmap": np.full((2, 3, 4), view, np.float16), "record": np.array(view)},
                                 {"heatmap": 1e-4})
        if shards is None:
            writer.finish(seconds=1.5)
        return tmp_path / "t.zarr"

    return write


def run(*arguments):
    return CliRunner().invoke(main, ["store", *map(str, arguments)])


def test_info_says_what_how_many_how_large_and_from_what(write):
    path = write()
    answer = json.loads(run("info", path, "--json").stdout)
    assert (answer["complete"], answer["views"], answer["shards"], answer["shards_written"]) == (True, 11, 3, 3)
    assert answer["bytes"] == sum(file.stat().st_size for file in path.rglob("c.*"))
    heatmap = answer["arrays"]["heatmap"]
    assert heatmap["bytes_per_view"] == round(heatmap["bytes"] / 11)
    assert heatmap["error"]["measured"] == 1e-4
    assert (answer["identity"]["weights"], answer["licence"]) == ("ab", "CC0")
    lines = run("info", path).stdout.splitlines()
    assert "complete: yes, 3 of 3 shards of 4 views" in lines
    assert "  classes: [a, b]" in lines
    assert "licence of the data: CC0" in lines
    assert any(line.split()[:5] == ["heatmap", "2x3x4", "float16", "exact-fp16", f"{heatmap['bytes_per_view']}"]
               and "0.0001" in line for line in lines)


@pytest.mark.parametrize(("shards", "views"), [([], 0), ([1], 4), ([0, 2], 7)])
def test_info_of_an_unfinished_store_says_how_far_it_is(write, shards, views):
    path = write(shards)
    result = run("info", path)
    assert result.exit_code == 0
    assert f"complete: no, {len(shards)} of 3 shards of 4 views" in result.stdout
    answer = json.loads(run("info", path, "--json").stdout)
    assert answer["complete"] is False
    assert answer["bytes"] == sum(file.stat().st_size for file in path.rglob("c.*"))
    assert answer["bytes_per_view"] == round(answer["bytes"] / max(views, 1))
    result = run("verify", path)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {path}: this store is not finished, {len(shards)} of 3")


def test_verify_names_every_bad_view(write):
    path = write()
    (path / "record/c.1").unlink()
    heatmap = path / "heatmap/c.2.0.0.0"
    damaged = bytearray(heatmap.read_bytes())
    damaged[40] ^= 1
    heatmap.write_bytes(damaged)
    result = run("verify", path)
    assert result.exit_code == 1
    assert "ok: no" in result.stdout
    assert "bad views: 4-8 (5 of 11)" in result.stdout
    assert json.loads(run("verify", path, "--json").stdout)["bad_views"] == [4, 5, 6, 7, 8]


def test_verify_of_a_damaged_manifest_prints_no_zeros(write):
    path = write()
    (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes() + b" ")
    result = run("verify", path)
    assert result.exit_code == 1
    assert "0" not in result.stdout.replace(str(path), "")
    assert "manifest.json: was damaged or edited" in result.stdout
    assert json.loads(run("verify", path, "--json").stdout)["ok"] is False


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_no_store_is_one_line(tmp_path, command):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        result = run(command, path)
        assert (result.exit_code, result.output.count("\n"), result.stdout) == (1, 1, "")
        assert str(path) in result.stderr


@pytest.mark.parametrize(("name", "command"), [
    ("views", "record-views"), ("ensemble-both", "build-ensemble both"), ("resnet50", "dump-teachers resnet50")])
def test_a_store_that_is_not_there_says_what_makes_it(tmp_path, monkeypatch, name, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    for arguments in (["info"], ["verify"], ["convert", "x.zarr"]):
        result = run(arguments[0], f"targets/{name}.zarr", *arguments[1:])
        assert result.exit_code == 1
        assert result.stderr == f"Error: targets/{name}.zarr: there is no store; make it with 'pipeline {command}'\n"
    monkeypatch.chdir("targets")
    assert run("info", f"{name}.zarr").stderr.endswith(f"'pipeline {command}'\n")
    assert run("info", "resnet50").stderr == "Error: resnet50: there is no store\n"


def test_a_picture_needs_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(main, ["profile", "demo"])
    result = run("show", "targets/resnet50.zarr", 0, "-o", "nodir/x.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: --out nodir/x.png: the folder nodir does not exist; make it, or name another.\n"
    assert "pipeline dump-teachers resnet50" in run("show", "targets/resnet50.zarr", 0, "-o", "x.png").stderr


def test_stores_by_url(write, tmp_path):
    path = write()
    url, here = f"file://{path}", json.loads(run("info", path, "--json").stdout)
    assert json.loads(run("info", url, "--json").stdout) == {**here, "path": url}
    assert run("info", url).stdout.startswith(f"path: {url} (zarr)\ncomplete: yes")
    assert json.loads(run("verify", url, "--json").stdout)["ok"]
    copied = json.loads(run("convert", url, tmp_path / "copy.zarr", "--json").stdout)
    assert copied["same_content"]
    assert (tmp_path / "copy.zarr/heatmap/c.1.0.0.0").read_bytes() == (path / "heatmap/c.1.0.0.0").read_bytes()
    (path / "record/c.1").unlink()
    result = run("verify", url)
    assert result.exit_code == 1
    assert "bad views: 4-7 (4 of 11)" in result.stdout
    assert f"{url}/record/c.1: the shard of views 4 to 7 is missing" in result.stdout


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("scheme", ["file", "nowhere"])
def test_a_url_of_no_store_is_one_line(tmp_path, scheme, command):
    url = f"{scheme}://{tmp_path}"
    result = run(command, url)
    assert (result.exit_code, result.output.count("\n"), result.stdout) == (1, 1, "")
    assert result.stderr.startswith(f"Error: {url}: ")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_an_unfinished_store_by_url_is_one_line(write, command):
    result = run(command, f"file://{write([1])}")
    assert (result.exit_code, result.output.count("\n"), result.stdout) == (1, 1, "")
    assert "there is no manifest.json" in result.stderr


def test_nothing_is_converted_to_a_url(write, tmp_path, monkeypatch):
    path = write()
    monkeypatch.chdir(tmp_path)
    result = run("convert", path, "memory://u.zarr")
    assert (result.exit_code, result.stderr.count("\n"), list(tmp_path.iterdir())) == (1, 1, [path])
    assert "memory://u.zarr: a store is written to a local disk" in result.stderr


def test_neighbours_are_joined():
    assert ranges([4, 5, 6, 7, 12]) == ["4-7", "12"]
    assert ranges([]) == []


def test_convert_goes_both_ways_and_says_what_it_wrote(write, tmp_path):
    path = write()
    there = json.loads(run("convert", path, tmp_path / "t.h5", "--json").stdout)
    assert (there["backend"], there["views"], there["same_content"]) == ("hdf5", 11, True)
    assert json.loads(run("info", tmp_path / "t.h5", "--json").stdout)["backend"] == "hdf5"
    assert run("verify", tmp_path / "t.h5").exit_code == 0
    back = json.loads(run("convert", tmp_path / "t.h5", tmp_path / "u", "--backend", "zarr", "--json").stdout)
    assert (back["backend"], back["fingerprint"]) == ("zarr", there["fingerprint"])
    assert (tmp_path / "u/heatmap/c.1.0.0.0").read_bytes() == (path / "heatmap/c.1.0.0.0").read_bytes()


def test_convert_to_another_encoding_has_a_fingerprint_of_its_own(tmp_path):
    path = tmp_path / "t.zarr"
    exact = ArraySpec("heatmap", (2, 3, 4), encoding="exact-fp32")
    writer = create_store(path, replace(SPEC, arrays=(exact, SPEC["record"])))
    for shard in range(SPEC.shards):
        with writer.claim(shard) as claim:
            for view in claim.views:
                claim.append({"heatmap": np.full((2, 3, 4), view, np.float32), "record": np.array(view)})
    writer.finish()
    there = json.loads(run("convert", path, tmp_path / "u.zarr", "--encoding", "heatmap=exact-fp16", "--json").stdout)
    before, after = (json.loads(run("info", store, "--json").stdout)["fingerprint"]
                     for store in (path, tmp_path / "u.zarr"))
    assert (there["fingerprint"], there["same_content"]) == (after, False)
    assert before != after
    assert run("verify", tmp_path / "u.zarr").exit_code == 0


def test_convert_refuses_values_that_an_encoding_cannot_hold(write, tmp_path):
    path = write([0, 1, 2])
    create_store(path, SPEC).finish()
    answer = run("convert", path, tmp_path / "u.zarr", "--encoding", "heatmap=u8-sqrt", "--json")
    assert answer.exit_code == 1
    assert "u8-sqrt stores probabilities" in answer.stderr  # these maps are 0 to 10


@pytest.mark.parametrize(("options", "message"), [
    (["--encoding", "heatmap"], "--encoding 'heatmap': expected ARRAY=NAME"),
    (["--encoding", "heat=u8-sqrt"], "array 'heat' is not in this store; it has heatmap, record"),
    (["--encoding", "record=u8-sqrt"], "has no other encoding"),
])
def test_convert_refuses_in_one_line(write, tmp_path, options, message):
    result = run("convert", write(), tmp_path / "u.zarr", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "u.zarr/manifest.json").exists()


def test_convert_refuses_an_unfinished_store(write, tmp_path):
    result = run("convert", write([1]), tmp_path / "u.h5")
    assert result.exit_code == 1
    assert "1 of 3 shards are written" in result.stderr
