"""Detectors: backbones, hourglasses, heads, decoding and weights, by name."""

from pipeline.models.decoding import decode_detections, find_peaks, peaks_to_boxes
from pipeline.models.detector import Detector, DetectorConfig, check_size
from pipeline.models.preprocessing import preprocess
from pipeline.models.registry import available_models, build_detector, detector_config, load_detector, load_trained
from pipeline.models.weights import holds_detector, read_config, refuse_other_classes, save_detector

__all__ = [
    "Detector",
    "DetectorConfig",
    "available_models",
    "build_detector",
    "check_size",
    "decode_detections",
    "detector_config",
    "find_peaks",
    "holds_detector",
    "load_detector",
    "load_trained",
    "peaks_to_boxes",
    "preprocess",
    "read_config",
    "refuse_other_classes",
    "save_detector",
]
