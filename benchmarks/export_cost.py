"""What an export costs: wall time and peak memory of every stage, for models of the official sizes.

    python -m benchmarks.export_cost --json engines/built/export_cost.json vit_b:fp16 vit_h:fp16

Weights are random: cost does not depend on them. Each case runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.random_weights import save_random_checkpoint

LIMITS = {"nano": {"seconds": 60}, "vit_b": {"seconds": 60}, "vit_h": {"seconds": 180, "mib": 8192}}
"""Of load, encoder and decoder together, checks included; engine and proof are not part of it."""
EXPORT = ("load", "encoder.onnx", "decoder.onnx")


def measure(family: str, dtype: str, folder: Path, export_only: bool = False) -> dict:
    """Export, build and verify in this process; ``folder`` holds ``family``.pth and receives the files."""
    start = time.perf_counter()
    from sparsesam_deploy.engines.builder import build_engine
    from sparsesam_deploy.engines.folder import BuildFolder
    from sparsesam_deploy.engines.options import EngineOptions
    from sparsesam_deploy.export.decoder import export_decoder
    from sparsesam_deploy.export.encoder import export_encoder
    from sparsesam_deploy.export.options import ExportOptions
    from sparsesam_deploy.model.checkpoint import load_checkpoint
    from sparsesam_deploy.model.config import SparsityConfig
    from sparsesam_deploy.model.encoder import SparseSamEncoder
    from sparsesam_deploy.parity.samples import shipped_samples
    from sparsesam_deploy.parity.verify import Verifier
    from sparsesam_deploy.progress import Stages

    imports = round(time.perf_counter() - start, 2)
    stages, build = Stages(Console(stderr=True)), BuildFolder(folder)
    with stages("load"):
        loaded = load_checkpoint(folder / f"{family}.pth")
    with stages("encoder.onnx"):
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, SparsityConfig()).eval()
        export_encoder(encoder, loaded, build.encoder_onnx, ExportOptions(dtype))
    with stages("decoder.onnx"):
        export_decoder(loaded, build.decoder_onnx, dtype)
    del encoder
    if not export_only:
        with stages("engine") as advance:
            build_engine(build.encoder_onnx, "tensorrt-rtx", EngineOptions(), advance)
        with stages("verify, one image") as advance:
            Verifier(loaded, build.encoder_onnx, build.decoder_onnx)(shipped_samples()[:1], advance)
    records = stages.as_dicts()
    exported = [record for record in records if record["name"] in EXPORT]
    seconds = round(sum(record["seconds"] for record in exported), 2)
    return {
        "case": f"{family}:{dtype}",
        "import_seconds": imports,
        "export_seconds": seconds,
        "export_peak_mib": max(record["peak_mib"] for record in exported),
        "stages": records,
    }


def within_limits(result: dict) -> bool:
    limits = LIMITS.get(result["case"].partition(":")[0], {})
    in_time = result["export_seconds"] <= limits.get("seconds", float("inf"))
    return in_time and result["export_peak_mib"] <= limits.get("mib", float("inf"))


def run_case(case: str, scratch: Path | None = None, export_only: bool = False) -> dict:
    """`measure` in a fresh process, on a checkpoint made in another one; nothing is left behind."""
    family, _, dtype = case.partition(":")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for function, arguments in (
            (save_random_checkpoint, (Path(folder) / f"{family}.pth", family)),
            (measure, (family, dtype or "fp16", Path(folder), export_only)),
        ):
            with ProcessPoolExecutor(1, context) as pool:  # breaks where a Pool would wait for a killed process
                result = pool.submit(function, *arguments).result()
    return result


def print_results(results: list[dict], console: Console) -> None:
    table = Table("case", "stage", "seconds", "peak MiB", title="cost of an export")
    for result in results:
        for stage in result["stages"]:
            table.add_row(result["case"], stage["name"], f"{stage['seconds']:.1f}", str(stage["peak_mib"]))
        verdict = "within limits" if within_limits(result) else "over its limit"
        export = f"{result['export_seconds']:.1f}"
        table.add_row(result["case"], f"export, {verdict}", export, str(result["export_peak_mib"]), end_section=True)
    console.print(table)


@click.command(help=__doc__)
@click.argument("cases", nargs=-1)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--scratch", type=click.Path(path_type=Path, exists=True), help="Folder for temporary files, 8 GB.")
@click.option("--export-only", is_flag=True, help="Neither build an engine nor verify.")
def main(cases: tuple[str, ...], json_path: Path | None, scratch: Path | None, export_only: bool) -> None:
    results = []
    for case in cases or ("vit_b:fp16", "vit_h:fp16", "vit_h:fp32"):
        results.append(run_case(case, scratch, export_only))
        if json_path:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(results, indent=2) + "\n")
    print_results(results, Console())
    raise SystemExit(not all(map(within_limits, results)))


if __name__ == "__main__":
    main()
