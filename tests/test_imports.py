"""Every module imports on a machine that has none of the optional packages."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import sparsesam_deploy
from sparsesam_deploy.optional import EXTRAS, module_of

OF_THE_TESTS = ("transformers", "timm", "segment_anything_hq", "triton_python_backend_utils")
"""What no extra but dev installs, or Triton Inference Server alone."""
OPTIONAL = sorted({module_of(package) for packages in EXTRAS.values() for package in packages} | {*OF_THE_TESTS})

IMPORT_ALL = """
import importlib, json, sys

blocked, modules = json.loads(sys.argv[1]), json.loads(sys.argv[2])

# What Python does for a package that is not there: `import` raises, and `find_spec`, which torch asks, gives None.
sys.modules.update(dict.fromkeys(blocked))
failures = {}
for module in modules:
    try:
        importlib.import_module(module)
    except BaseException as error:
        failures[module] = repr(error)
print(json.dumps(failures))
"""


def test_every_module_imports_without_optional_packages():
    """All in one process, because torch takes seconds to import."""
    modules = [module.name for module in pkgutil.walk_packages(sparsesam_deploy.__path__, "sparsesam_deploy.")]
    assert len(modules) > 100
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(OPTIONAL), json.dumps(modules)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    failures = json.loads(result.stdout.splitlines()[-1])
    assert not failures, "\n".join(f"{module}: {error}" for module, error in failures.items())


def test_the_public_names_are_imported_when_asked_for():
    light = "import sys, sparsesam_deploy; dir(sparsesam_deploy); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light]).returncode == 0
    for name in sparsesam_deploy.__all__:
        assert getattr(sparsesam_deploy, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'loads'"):
        _ = sparsesam_deploy.loads
