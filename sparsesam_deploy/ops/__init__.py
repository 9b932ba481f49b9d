"""The custom operators, one folder each: ``reference.py`` (torch, the definition), ``onnx.py`` (node and portable
function body), ``triton.py`` and ``kernels/`` (GPU). docs/algorithm.md says what they compute.
"""
