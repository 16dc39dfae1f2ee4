from types import SimpleNamespace

import pytest

from pipeline.billing.rehearsal import images_needed, views_each


@pytest.mark.parametrize(("per_image", "each", "images"), [(1, 1, 32), (2, 2, 16), (8, 2, 16)])
def test_the_views_of_the_images_fill_a_batch_of_the_dump(per_image, each, images):
    params = SimpleNamespace(dump=SimpleNamespace(batch=32), views=SimpleNamespace(per_image=per_image))
    assert (views_each(params), images_needed(params, 8, 100)) == (each, images)
    assert (images_needed(params, 64, 100), images_needed(params, 8, 5)) == (64, 5)
