import pytest
import torch

from pipeline.errors import UserError
from pipeline.models import build_detector
from pipeline.params import load_params, profiles
from pipeline.report import paper


@pytest.mark.parametrize("name", ["demo", "study", "voc"])
def test_every_profile_passes_the_schema_and_is_named_in_its_file(name, tmp_path):
    path = profiles.write(name, tmp_path / "params.yaml")
    params = load_params(path)
    assert params.profile == name
    assert set(params.distill.students) <= set(params.students)
    assert set(params.distill.recipes) <= set(params.recipes)
    assert name in profiles.summaries()


def test_voc_has_the_papers_share_of_parameters(tmp_path):
    params = load_params(profiles.write("voc", tmp_path / "params.yaml"))
    with torch.device("meta"):
        light, heavy = (sum(each.numel() for each in build_detector(detector.model, 20, **detector.arch).parameters())
                        for detector in (params.students[paper.CLAIM_STUDENT], params.teachers["resnet50"]))
    assert 100 * (light / heavy - 1) == pytest.approx(paper.CLAIM_PARAMS, abs=0.2)


def test_the_committed_params_are_the_demo(request):
    committed = (request.config.rootpath / "params.yaml").read_text()
    assert committed == (request.config.rootpath / "pipeline/params/profiles/demo.yaml").read_text()


def test_an_edited_file_is_not_overwritten(tmp_path):
    path = profiles.write("demo", tmp_path / "params.yaml")
    profiles.write("voc", path)
    path.write_text(path.read_text() + "\n# mine\n")
    with pytest.raises(UserError, match="--force"):
        profiles.write("demo", path)
    assert path.read_text().endswith("# mine\n")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="--force"):
        profiles.write("demo", path)
    profiles.write("demo", path, force=True)
    assert load_params(path).profile == "demo"


def test_an_unknown_profile_lists_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"'vok'.*'voc'.*demo"):
        profiles.write("vok", tmp_path / "params.yaml")
