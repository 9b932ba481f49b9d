"""The parity table of the README: the nano model in every precision at several densities, on the shipped photos."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.engines.folder import BuildFolder
from sparsesam_deploy.parity.report import write_json
from sparsesam_deploy.parity.samples import shipped_samples
from sparsesam_deploy.parity.verify import Verifier
from sparsesam_deploy.pipeline import export
from sparsesam_deploy.progress import Stages
from sparsesam_deploy.provenance import Provenance
from sparsesam_deploy.recipe import ExportRecipe

DTYPES = ("fp32", "fp16", "bf16")
DENSITIES: dict[str, float | None] = {"default (0.25 / 0.5)": None, "0.5": 0.5, "0.4": 0.4, "0.3": 0.3}


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
def main(path: Path) -> None:
    """Print the table as Markdown."""
    stages, rows = Stages(Console(stderr=True)), []
    for name, density in DENSITIES.items():
        for dtype in DTYPES:
            recipe = ExportRecipe.merge(None, {"model": "nano", "dtype": dtype, "density": density})
            with tempfile.TemporaryDirectory() as temporary:
                folder = BuildFolder(Path(temporary))
                loaded = export(recipe, folder, stages)
                with stages(f"verify density {name}, {dtype}") as advance:
                    verifier = Verifier(loaded, folder.encoder_onnx, folder.decoder_onnx)
                    report = verifier(shipped_samples(), advance)
            worst = {
                "block": max(stage.precision for image in report.images for stage in image.stages),
                "graph": max(stage.graph for image in report.images for stage in image.stages),
            }
            rows.append({"density": name, "dtype": dtype, **worst, **report.summary()})
    with output_file(path) as partial:
        write_json(partial, {**Provenance.here().model_dump(), "rows": rows})
    click.echo(
        "| density | dtype | worst block | as fp32 | routed alike | output | IoU ONNX/torch | IoU sparse/dense |"
    )
    click.echo("|---|---|---|---|---|---|---|---|")
    for row in rows:
        outputs = f"{row['relative_l2_routed_alike']:.1e} | {row['relative_l2']:.1e}"
        errors = f"{row['block']:.1e} | {row['graph']:.1e} | {outputs}"
        masks = f"{row['mask_iou_onnx_vs_torch']:.4f} | {row['mask_iou_sparse_vs_dense']:.4f}"
        click.echo(f"| {row['density']} | {row['dtype']} | {errors} | {masks} |")


if __name__ == "__main__":
    main()
