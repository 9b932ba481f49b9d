"""Seeds of the fuzz targets: files that are good, and files that are bad in each way a test knows."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from sparsesam_deploy.engines.manifest import MANIFEST
from tests.engines.runtime.folders import make_folder
from tests.engines.runtime.manifests import BEYOND_PYTHON, UNUSABLE, field, put
from tests.engines.runtime.pictures import KINDS, RGB, make_jpeg, make_png, turned_jpeg, turned_png, upended_jpeg

TARGETS = ("manifest", "png", "jpeg", "prompts", "image")
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
    pictures += [make_png(RGB, 8, 9, 5, interlaced=True), turned_png(6), turned_png(1, little=False), pictures[3][:50]]
    pictures += [turned_png(6).replace(b"\0\0\0\x1aeXIf", b"\x66\0\0\x1aeXIf")]
    photos = [make_jpeg(mode, 9, 17, progressive=kind) for mode in ("L", "RGB", "CMYK") for kind in (False, True)]
    photos += [make_jpeg("RGB", 20, 20, subsampling=ratio) for ratio in ("4:4:4", "4:2:2", "4:2:0")]
    photos += [make_jpeg("RGB", 40, 40, restart_marker_blocks=2), upended_jpeg(photos[-2]), photos[0][:-9]]
    photos += [turned_jpeg(6), turned_jpeg(8, little=False)]
    for name, files in {"png": pictures, "jpeg": photos}.items():
        for index, content in enumerate(files):
            (base / name / str(index)).write_bytes(content)
    for index, text in enumerate(TEXTS):
        (base / "prompts" / str(index)).write_bytes(struct.pack("<ii", *SIZES[index % len(SIZES)]) + text.encode())
    for index, (height, width) in enumerate(SIZES):
        (base / "image" / str(index)).write_bytes(struct.pack(">HHB", height, width, index) + bytes(range(256)))
