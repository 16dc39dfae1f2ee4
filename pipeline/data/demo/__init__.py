"""The embedded data set: detection scenes in VOC layout, composed from what PyPI packages ship."""

from pipeline.data.demo.artwork import CLASSES, LICENCE
from pipeline.data.demo.writing import write_demo

__all__ = ["CLASSES", "LICENCE", "write_demo"]
