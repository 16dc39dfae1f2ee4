"""`kill -9` at random moments: the resumed store is the undisturbed one, and no finished shard is computed again."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import storage
from storage import manifest
from storage.journal import finished

SCRIPT = Path(__file__).with_name("victims.py")


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """serve(do, out, kill=None) -> the answer of tests/faults/victims.py."""
    folder = tmp_path_factory.mktemp("victims")
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "ready\n"

    def serve(do, out, kill=None):
        process.stdin.write(json.dumps({"do": do, "out": str(out), "kill": kill}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield serve
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()


def contents(path):
    """Every file's bytes; of the manifest all but what it says of its making."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    content = json.loads(files.pop("manifest.json"))
    del content["created"], content["checksum"]
    return files, content


def views_in_finished_shards(path):
    begun = storage.begun(path)
    if begun is None:
        return 0
    if (path / manifest.NAME).exists():
        return begun.views
    return sum(len(begun.shard_range(shard)) for shard in finished(path / manifest.WORK, path, begun))


@pytest.mark.parametrize("do", ["dump", "ensemble", "convert"])
def test_a_killed_writer_is_resumed_to_the_same_bytes(serve, times, counted, tmp_path, do):
    random.seed(do)
    whole = serve(do, tmp_path / "whole")
    expected, spec = contents(tmp_path / "whole"), storage.begun(tmp_path / "whole")
    assert whole["views"] == spec.views
    name, between = {"dump": "a dump", "ensemble": "an ensemble build", "convert": "a conversion"}[do], 0
    with counted(f"`kill -9` of {name}, resumed to the same bytes") as tally:
        while tally.times < times(5, 50):
            out, moment = tmp_path / "out", random.uniform(0, whole["seconds"])
            killed = serve(do, out, moment)
            tally.times += killed["killed"]
            kept, had_begun = views_in_finished_shards(out), storage.begun(out) is not None
            assert killed["views"] - kept <= spec.shard_views
            resumed = serve(do, out)
            assert resumed["views"] == spec.views - kept
            assert not (had_begun and resumed["samples"])
            assert contents(out) == expected, f"killed after {moment} s"
            tally.right += killed["killed"]
            between += 0 < kept < spec.views
            tally.note = f"; {between} of them after its first shard and before its last"
            shutil.rmtree(out)
    assert storage.verify(tmp_path / "whole").ok
