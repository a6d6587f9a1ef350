"""Commands that make a run and look after it: check, demo, train, inspect."""

from pathlib import Path
from typing import Annotated

import typer

from elm_dist.cli.app import ConfigArgument, Overrides, app
from elm_dist.config_file import load_config
from elm_dist.errors import ElmError


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="YAML files to read and check.")],
) -> None:
    """Check configurations without running them; report all their problems at once."""
    from elm_dist.model.cost import count_parameters

    problems = []
    for path in configs:
        try:
            config = load_config(path)
        except ElmError as error:
            problems.append(str(error))
        else:
            typer.echo(f"{path}: good, {count_parameters(config.model, config.tokenizer.grid):,} parameters")
    if problems:
        raise ElmError("\n".join(problems))


@app.command()
def demo(
    config: ConfigArgument = Path("configs/demo.yaml"),
    images: Annotated[
        Path | None, typer.Option(help="Your own images instead: train/CLASS/*, validation/CLASS/*.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole chain on real images: tokenizer, shards, training, samples. Reuses what is done already."""
    from rich.console import Console

    from elm_dist.launch.demo import run_demo

    report = run_demo(config, images, overrides or [])
    Console().print(report, soft_wrap=True)
    raise typer.Exit(0 if report.is_proven else 1)


@app.command()
def train(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Train in this one process; several are started by `deepspeed` or `torchrun` with elm_dist/train.py."""
    from elm_dist.train import run

    raise typer.Exit(run(config, overrides or []))


@app.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Made by `elm tokenize`, or the run.directory of a training.")
    ],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer of the shards, for --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG of the first samples of the shards, decoded.")] = None,
    fast: Annotated[bool, typer.Option(help="Do not read the checkpoints of a run: trust their sizes.")] = False,
) -> None:
    """Check every checksum of token shards or of a run's checkpoints, and say what they hold; draw some of it."""
    from elm_dist.checkpoint.run_folder import is_run
    from elm_dist.data.shards import MANIFEST, UNFINISHED

    if is_run(folder):
        _inspect_run(folder, fast, draws=tokenizer is not None or out is not None)
    elif (folder / MANIFEST).exists() or (folder / UNFINISHED).exists():
        _inspect_shards(folder, tokenizer, out, fast)
    else:
        raise ElmError(
            f"{folder}: there are no token shards here (no manifest.json), and no run (no config.yaml); give a folder "
            "made by `elm tokenize`, or the run.directory of a training"
        )


def _inspect_run(run: Path, fast: bool, draws: bool) -> None:
    from elm_dist.checkpoint.run_report import inspect_run

    if draws:
        raise ElmError(f"--tokenizer and --out draw samples of shards, and {run} is a run; see `elm sample`")
    report = inspect_run(run, fast)
    typer.echo(str(report))
    raise typer.Exit(0 if report.is_good else 1)


def _inspect_shards(shards: Path, tokenizer: Path | None, out: Path | None, fast: bool) -> None:
    from elm_dist.data.inspect import inspect_shards
    from elm_dist.sampling.contact_sheet import draw_contact_sheet

    if fast:
        raise ElmError(f"--fast is for the checkpoints of a run; {shards} holds shards, which are always read in full")
    if (tokenizer is None) != (out is None):
        raise ElmError(
            "--tokenizer and --out go together: one decodes the samples, the other names their PNG; give both"
        )
    typer.echo(str(inspect_shards(shards)))
    if tokenizer is not None and out is not None:
        draw_contact_sheet(shards, tokenizer, out)
        typer.echo(f"picture     {out}")
