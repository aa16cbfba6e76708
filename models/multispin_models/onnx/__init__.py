"""ONNX Runtime as an engine, and the exporter that makes its models from GGUF files.

Reading order, exporter: `architecture` (what the file asks for), `weights` (its tensors), `recipes` and `quantize` (in
which numbers), `rotation` (before that), `builder`, `products`, `attention` and `graph` (the nodes), `export`.
Engine: `exported` (a directory), `arrangement` (rows of a batch), `session`, `engine`; `quality` measures a recipe.

The exporter needs the extra `onnx-export`, the engine the extra `onnx`; nothing is imported here, so that the engine
can be there without the exporter.
"""
