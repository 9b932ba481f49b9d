"""A build that can be served, for the command that serves it."""

from tests.serving.conftest import build, onnx_files  # noqa: F401
