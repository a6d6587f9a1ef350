"""The command that shows runs as one page: elm report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elm_dist.cli.app import app

if TYPE_CHECKING:
    from elm_dist.analysis.run_plan import Planned
    from elm_dist.analysis.run_record import RunRecord


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The run.directory of each training to show.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page: one HTML file that needs nothing beside it.")],
    analysis: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Findings of `elm analyze` beside those in RUN/analysis.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the runs ran on, to compare with `elm plan`: a100-80gb.")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="With --gpu: GPUs of each machine.")] = 8,
    fabric: Annotated[
        str, typer.Option(metavar="NAME", help="With --gpu: the network between machines, as in eth-25g.")
    ] = "ib-hdr200",
) -> None:
    """Show a run, or several side by side, on one page: samples, curves, faults, plan, analyses, settings.

    A run may still be going on. The page is for a phone as for a desk, and loads nothing from anywhere.
    """
    import time

    from elm_dist.analysis.run_findings import read_named_findings
    from elm_dist.analysis.run_page import write_page
    from elm_dist.analysis.run_record import read_runs

    records = read_runs(runs, time.time())
    on_gpus = [record for record in records if gpu and record.processes and record.device.startswith("cuda")]
    plans = {record.name: _plan(record, gpu or "", gpus_per_node, fabric) for record in on_gpus}
    write_page(records, plans, read_named_findings(analysis or []), out)
    typer.echo(f"page in {out}: {out.stat().st_size / 1e6:.2f} MB")


def _plan(record: "RunRecord", gpu: str, gpus_per_node: int, fabric: str) -> "Planned":
    """Return what `elm plan` says of a run on the machines that it had."""
    from elm_dist.analysis.run_plan import Planned
    from elm_dist.errors import LayoutError
    from elm_dist.planning.hardware import GIB, Cluster, find_fabric, find_gpu
    from elm_dist.planning.plan import plan_run

    on_each = min(gpus_per_node, record.processes)
    if record.processes % on_each:
        raise LayoutError(
            f"{record.directory} had {record.processes} processes, which do not fill machines of {on_each} GPUs; say "
            "with --gpus-per-node how many each had"
        )
    cluster = Cluster(record.processes // on_each, on_each, find_gpu(gpu), find_fabric(fabric))
    plan = plan_run(record.config, cluster)
    return Planned(
        machines=f"{record.processes} x {gpu}",
        images_per_second=plan.images_per_second,
        step_seconds=plan.step.total,
        mfu_percent=100 * plan.mfu,
        memory_gib=plan.memory / GIB,
        bubble_percent=100 * plan.timeline.bubble,
    )
