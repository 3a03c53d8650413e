"""Graphs of a pipeline's models for runtimes without PyTorch: ONNX files and a manifest."""
