"""A sparse Segment Anything image encoder, from a stock checkpoint into production."""

from importlib.metadata import version

__version__ = version("sparsesam-deploy")
