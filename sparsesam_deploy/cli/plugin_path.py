"""``sparsesam-export plugin-path``: the plugin library, for other programs."""

from __future__ import annotations

import click

from ..errors import EnvironmentProblem
from . import options
from .console import example, print_json


@click.command(
    "plugin-path",
    short_help="Print the plugin library's path, for other programs.",
    epilog=example("sparsesam-export plugin-path --register")
    + "\n\n\b\n  trtexec --loadEngine=encoder.engine --dynamicPlugins=$(sparsesam-export plugin-path)\n"
    "  polygraphy run encoder.engine --trt --plugins $(sparsesam-export plugin-path --register)",
)
@click.option(
    "--register", is_flag=True, help="Print the library that registers the plugins as soon as a program loads it."
)
@options.as_json
def plugin_path(register: bool, as_json: bool) -> None:
    """Print the path of the TensorRT plugin library.

    Programs that load plugin libraries by TensorRT's own interface (trtexec, registry.load_library) take it as it is;
    those that only dlopen (Polygraphy, Triton Inference Server, ONNX Runtime) take the one of --register.
    """
    from ..plugin_library import HOSTS, REGISTER, find_library, tensorrt_major

    library = find_library()
    register_library = library.with_name(REGISTER)
    if (register or as_json) and not register_library.is_file():
        raise EnvironmentProblem(f"{register_library} is not there; build plugins/ again, which makes both libraries.")
    if as_json:
        paths = {"library": str(library), "register": str(register_library)}
        commands = {name: command.format(**paths) for name, command in HOSTS.items()}
        print_json({**paths, "tensorrt_major": tensorrt_major(library), "commands": commands})
    else:
        click.echo(register_library if register else library)
