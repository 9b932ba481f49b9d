"""Seeds of the fuzz targets: files that are good, and files that are bad in each way a test knows."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from sparsesam_deploy.engines.manifest import MANIFEST
from tests.engines.runtime.folders import make_folder
from tests.engines.runtime.manifests import BEYOND_PYTHON, UNUSABLE, field, put
from tests.engines.runtime.pictures import KINDS, RGB, make_png, orientation

TARGETS = ("manifest", "png", "prompts", "image")
TEXTS = ("1,2", "305,15,364,71", "-1e30,0,1e30,1e-30", "nan,inf", "1,2,3", ",,,", "0x1,2", "1,1,1,1", "9" * 400 + ",1")
SIZES = ((1, 1), (303, 384), (1024, 7), (7, 1025), (0, 5), (2, 4000), (1, 3000))


def write_corpus(base: Path) -> None:
    """A folder of seeds for each target."""
    for target in TARGETS:
        (base / target).mkdir(parents=True)
    made = base / "made"
    good = [lambda _: None, field(put("parity", None)), field(put("parity.passed", False))]
    for index, change in enumerate([*good, *(change for change, _ in (UNUSABLE | BEYOND_PYTHON).values())]):
        make_folder(made)
        change(made)
        content = (made / MANIFEST).read_bytes()
        (base / "manifest" / str(index)).write_bytes(content[: 1 << 16])
        shutil.rmtree(made)
    pictures = [make_png(colour, bits, 5, 11) for colour, bits in KINDS]
    pictures += [make_png(RGB, 8, 1, 1, interlaced=True), make_png(RGB, 8, 3, 3, extra=(orientation(6),))]
    pictures += [make_png(RGB, 8, 3, 3, extra=(orientation(1, little=False),)), pictures[3][:50]]
    pictures += [make_png(RGB, 8, 3, 3, extra=(orientation(6),)).replace(b"\0\0\0\x1aeXIf", b"\x66\0\0\x1aeXIf")]
    for index, picture in enumerate(pictures):
        (base / "png" / str(index)).write_bytes(picture)
    for index, text in enumerate(TEXTS):
        (base / "prompts" / str(index)).write_bytes(struct.pack("<ii", *SIZES[index % len(SIZES)]) + text.encode())
    for index, (height, width) in enumerate(SIZES):
        (base / "image" / str(index)).write_bytes(struct.pack(">HHB", height, width, index) + bytes(range(256)))
