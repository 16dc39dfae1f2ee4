"""A teacher's heatmaps."""

import pytest
import torch


@pytest.fixture
def objects():
    """objects(classes, size, count) -> (8, classes, size, size): the heatmaps of a teacher that found some."""

    def rendered(classes, size, count):
        generator = torch.Generator().manual_seed(0)
        maps, places = torch.zeros(8, classes, size, size), torch.arange(size)
        for image in maps:
            for _ in range(count):
                label, y, x = (int(torch.randint(n, (1,), generator=generator)) for n in (classes, size, size))
                sure, wide = torch.rand(2, generator=generator).tolist()
                distance = (places[:, None] - y) ** 2 + (places - x) ** 2
                gaussian = (0.5 + sure / 2) * torch.exp(-distance / (2 * (1 + wide * size / 16) ** 2))
                image[label] = torch.maximum(image[label], gaussian)
        return maps

    return rendered
