"""Graphs of a pipeline's models for runtimes without PyTorch: ONNX files and a manifest.

from sdaccel.export import export

export(pipe, "folder")
"""

from __future__ import annotations

from .manifest import Manifest
from .pipeline import export

__all__ = ["Manifest", "export"]
