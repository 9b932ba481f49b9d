"""ONNX -> engine: build it, audit what was built against what was asked, write the manifest a loader checks."""
