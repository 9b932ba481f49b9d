"""A sparse Segment Anything image encoder, from a stock checkpoint into production."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sparsesam-deploy")
except PackageNotFoundError:  # a copy of the repository on a machine where nothing can be installed
    __version__ = "0+not.installed"
