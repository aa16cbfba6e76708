"""ONNX Runtime as an engine, and the exporter that makes its models from GGUF files.

Reading order, exporter: `architecture` (what the file asks for), `weights` (its tensors), `recipes` and `quantize` (in
which numbers), `products` and `graph` (the nodes), `export`. Engine: `exported` (a directory), `arrangement` (rows of a
batch), `session`, `engine`. The exporter needs the extra `onnx-export`, the engine the extra `onnx`; nothing is imported
here, so that either can be there without the other.
"""
