"""A build folder as an image encoder: on TensorRT, TensorRT-RTX, ONNX Runtime or PyTorch, behind one call."""
