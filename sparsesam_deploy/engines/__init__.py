"""ONNX -> engine: build it, compare the result with the graph, write the manifest that a loader checks."""
