"""Packages that some commands need and the others do without, and which extra of this package installs each.

They are imported where they are used, inside `importing`; commands that need one late ask `require` first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from .errors import EnvironmentProblem

EXTRAS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "onnxruntime-gpu": ("onnxruntime-gpu", "nvidia-ml-py"),
    "openvino": ("openvino",),
    "rtx": ("tensorrt-rtx", "polygraphy"),
    "tensorrt": ("tensorrt", "polygraphy", "nvidia-ml-py"),
    "triton": ("triton", "nvidia-ml-py"),
    "accuracy": ("scipy", "matplotlib", "jinja2", "ijson", "pycocotools"),
    "serving": ("tritonclient",),
}
"""Packages as pip calls them, by extra, as in pyproject.toml. The first two provide one module: have one, not both."""


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'sparsesam-deploy[{extra}]'"


def module_of(package: str) -> str:
    """What is imported of a package of `EXTRAS`."""
    return "pynvml" if package == "nvidia-ml-py" else package.removesuffix("-gpu").replace("-", "_")


def extra_of(package: str) -> str:
    """The first extra with ``package``."""
    return next(extra for extra, packages in EXTRAS.items() if package in packages)


def missing(packages: Sequence[str]) -> list[str]:
    """Those of ``packages`` that are not installed. Nothing is imported."""
    return [package for package in packages if not _is_there(module_of(package))]


def _is_there(module: str) -> bool:
    return sys.modules[module] is not None if module in sys.modules else find_spec(module) is not None


def require(user: str, *packages: str) -> None:
    """Refuse at once what would fail in the end: ``user`` needs the packages, which are all of one extra.

    Raises:
        EnvironmentProblem: some are not installed.
    """
    if absent := missing(packages):
        raise not_installed(user, absent, extra_of(absent[0]))


def not_installed(user: str, packages: Sequence[str], extra: str, instead: str = "") -> EnvironmentProblem:
    """The error, ready to be raised; ``instead`` continues its remedy, like ``, or leave --overlay out``."""
    names = " and ".join(filter(None, (", ".join(packages[:-1]), packages[-1])))
    verb = "is" if len(packages) == 1 else "are"
    return EnvironmentProblem(f"{names} {verb} not installed, which {user} needs; {install(extra)}{instead}.")


@contextmanager
def importing(package: str, user: str, extra: str | None = None) -> Iterator[None]:
    """Around the import of a package that ``user`` needs; ``extra`` where it is not the first one with the package.

    Raises:
        EnvironmentProblem: the package is not installed or does not load.
    """
    extra = extra or extra_of(package)
    try:
        yield
    except Exception as error:  # packages raise more than ImportError when a library of theirs does not load
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and absent.partition(".")[0] == module_of(package):
            raise not_installed(user, [package], extra) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = install(extra) if absent else f"pip install --force-reinstall {package}"
        raise EnvironmentProblem(f"{package} does not load ({reason}), which {user} needs; {remedy}.") from error
