"""Models to ONNX: ``encoder.onnx`` and ``decoder.onnx``, precision and metadata in the file."""
