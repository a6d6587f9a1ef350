"""The command that plans a training: elm plan."""

import json
from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, app


@app.command()
def plan(
    config: ConfigArgument,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    gpu: Annotated[str, typer.Option(metavar="NAME", help="Of each process, as in a100-80gb or h100-80gb.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each machine.")] = 8,
    fabric: Annotated[
        str, typer.Option(metavar="NAME", help="Network between machines, as in ib-ndr400-x8 or eth-25g.")
    ] = "ib-hdr200",
    search: Annotated[bool, typer.Option(help="Rank all layouts that fit, whatever CONFIG says of them.")] = False,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the passes of a step to .svg or .png, and below here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan for machines to read.")] = False,
    overrides: Overrides = None,
) -> None:
    """Say whether a training fits, how fast it will be and what to change, by arithmetic: needs no GPU.

    Exit code 2 where it does not fit.
    """
    from rich.console import Console

    from elm_dist.config_file import load_config
    from elm_dist.parallel.schedule import draw as draw_text
    from elm_dist.planning import report
    from elm_dist.planning.drawing import draw_timeline
    from elm_dist.planning.hardware import Cluster, find_fabric, find_gpu
    from elm_dist.planning.plan import check_memory, plan_run
    from elm_dist.planning.search import advise, search_layouts

    settings = load_config(config, overrides)
    cluster = Cluster(nodes, gpus_per_node, find_gpu(gpu), find_fabric(fabric))
    console = Console()
    if search:
        plans = search_layouts(settings, cluster)
        if as_json:
            typer.echo(json.dumps([report.describe_plan(each) for each in plans], indent=2))
        else:
            console.print(report.report_search(plans), soft_wrap=True)
        return
    planned = plan_run(settings, cluster)
    changes = advise(planned)
    if as_json:
        advice = report.describe_changes(changes)
        typer.echo(json.dumps(report.describe_plan(planned) | {"advice": advice}, indent=2))
    else:
        console.print(report.report_plan(planned, changes), soft_wrap=True)
    if draw is not None:
        draw_timeline(planned.timeline, draw)
        if not as_json:
            typer.echo(f"\n{draw_text(planned.timeline)}")
    check_memory(planned)
