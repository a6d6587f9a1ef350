"""Commands for long trainings: submit one to SLURM, start one again when it fails."""

from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, app


@app.command()
def submit(
    config: ConfigArgument,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each; one process for each GPU.")] = 8,
    time: Annotated[
        str, typer.Option(help="Limit, as in 24:00:00 or 2-12 (days-hours); a job that meets it goes on by itself.")
    ] = "24:00:00",
    array: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="A run for each seed, as in 0-3 or 1,5; 0-7%2: two at a time.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the batch script, and submit nothing.")] = False,
    overrides: Overrides = None,
) -> None:
    """Submit a training to SLURM: it saves and goes on when it is stopped, preempted, or loses a node."""
    from elm_dist.launch.slurm import Job, render_script, submit_script

    script = render_script(Job(config, tuple(overrides or ()), nodes, gpus_per_node, time, array))
    if dry_run:
        typer.echo(script, nl=False)
    else:
        typer.echo(f"job {submit_script(script)}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def supervise(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What starts the training.")],
    restarts: Annotated[int, typer.Option(min=0, help="How often to start it again, in all.")] = 10,
    backoff: Annotated[
        float, typer.Option(min=0, help="Seconds before a restart; twice as long after each without progress.")
    ] = 10.0,
    run: Annotated[
        Path | None, typer.Option(help="The run.directory, where COMMAND names no configuration file.")
    ] = None,
) -> None:
    """Run a training command, start it again when it fails, and report how much of the time was of use.

    A signal makes the training save and stop. Gives up on wrong input, and where restarts make no newer checkpoint.
    """
    from elm_dist.launch.supervise import Supervisor, find_run

    raise typer.Exit(Supervisor(command, run or find_run(command), restarts, backoff).run())


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file whose run is to be possible here.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the findings, for machines to read.")] = None,
) -> None:
    """Examine this machine, or under `torchrun` and `srun` all machines of a job and the links between them."""
    from rich.console import Console

    from elm_dist.config_file import load_config
    from elm_dist.launch.doctor import diagnose

    diagnosis = diagnose(load_config(config, overrides) if config else None, out)
    if diagnosis is not None:
        Console().print(diagnosis, soft_wrap=False)
        raise typer.Exit(0 if diagnosis.is_good else 1)
