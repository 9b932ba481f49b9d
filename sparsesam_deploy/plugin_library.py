"""Finding the native plugin library, and choosing whether an engine is built with it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .errors import EnvironmentProblem, InvalidInput

LIBRARY = "libsparsesam_plugins.so"
"""For hosts that call ``IPluginRegistry::loadLibrary``."""
REGISTER = "libsparsesam_plugins_register.so"
"""For hosts that only dlopen: registers the plugins of the `LIBRARY` beside it."""
VARIABLE = "SPARSESAM_PLUGIN_LIBRARY"
"""Environment variable with the path of a `LIBRARY` to use instead of the installed one."""
BUILD = "SPARSESAM_NATIVE=1 pip install '.[triton]' with TENSORRT_INCLUDE_DIR set (see docs/tensorrt.md)"
HOSTS = {
    "trtexec": "trtexec --onnx=encoder.onnx --stronglyTyped --dynamicPlugins={library}",
    "polygraphy": "polygraphy run encoder.engine --trt --plugins {register}",
    "tritonserver": "tritonserver --model-repository=models --backend-config=tensorrt,plugins={register}",
    "onnxruntime": 'providers=[("TensorrtExecutionProvider", {{"trt_extra_plugin_lib_paths": "{register}"}})]',
}
"""What to hand to other programs, by name."""


def find_library() -> Path:
    """The plugin library: the one `VARIABLE` names, or else the installed one.

    Raises:
        InvalidInput: the variable names no file.
        EnvironmentProblem: the package was installed without the library.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise InvalidInput(f"{VARIABLE} is {named}, which is no file; set it to {LIBRARY} or unset it.")
        return Path(named).resolve()
    installed = Path(__file__).resolve().with_name("plugins") / LIBRARY
    if not installed.is_file():
        raise EnvironmentProblem(f"the plugin library is not installed: {BUILD}, or set {VARIABLE}.")
    return installed


def choose_library(builder: str, named: Path | None, without: bool) -> Path | None:
    """The library that an engine is to be built with; None for function bodies, by ``without`` or by TensorRT-RTX.

    Raises:
        InvalidInput: a library was named, and ``without`` given.
        EnvironmentProblem: the library is not installed.
    """
    if named is not None and without:
        raise InvalidInput(f"--plugin-library {named} and --no-plugins exclude each other; leave one out.")
    if without or builder == "tensorrt-rtx":  # which cannot build plugins, and says so when one was named
        return named
    if named is None:
        try:
            named = find_library()
        except EnvironmentProblem as problem:
            raise EnvironmentProblem(f"{str(problem)[:-1]}, or build slower function bodies: --no-plugins.") from None
    return named.resolve()  # a bare name would be looked for elsewhere by dlopen


def tensorrt_major(library: Path) -> int:
    """The major release of TensorRT that a plugin library was built for; it serves no other.

    Raises:
        EnvironmentProblem: the file is no plugin library of this project, or of another platform.
    """
    try:
        return ctypes.CDLL(str(library.resolve())).sparsesamTensorRTMajor()
    except (OSError, AttributeError) as error:
        raise EnvironmentProblem(f"{library} is no plugin library for this machine ({error}); {BUILD}.") from None
