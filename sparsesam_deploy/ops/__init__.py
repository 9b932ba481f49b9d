"""The custom operators, one folder each: ``reference.py`` (torch), ``onnx.py`` (node and portable function body)."""
