"""Commands that look into trained runs: how their loss scales, and how they are best sampled."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elm_dist.cli.analysis import Out, analyze, present
from elm_dist.cli.app import Overrides, RunArgument
from elm_dist.cli.lists import parse_list
from elm_dist.cli.sampling import BatchSize, Preset, Seed, Step


@analyze.command()
def scaling(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="The run.directory of trainings that differ in size.")
    ],
    out: Out,
    predict: Annotated[
        list[Path] | None, typer.Option(metavar="CONFIG", help="A configuration whose loss to foretell; repeatable.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=1, help="Samples that intervals come from.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of these samples.")] = 0,
) -> None:
    """Fit power laws to the losses of runs against parameters, compute and images, and foretell those of others."""
    from elm_dist.analysis.scaling import analyze_scaling

    present(analyze_scaling(runs, predict=predict or [], bootstrap=bootstrap, seed=seed), out)


@analyze.command()
def sampling(
    run: RunArgument,
    out: Out,
    reference: Annotated[Path, typer.Option(help="Real images: a folder, an npz, or saved statistics.")],
    schedules: Annotated[str, typer.Option(help="Of guidance, as in configurations.")] = "constant,linear",
    scales: Annotated[str, typer.Option(help="Of guidance; 1 is none.")] = "1,2,4",
    top_k: Annotated[str, typer.Option(help="Entries of each sub-code to draw from; 0 is all.")] = "0",
    per_class: Annotated[int, typer.Option(min=1, help="Images of each class and combination.")] = 50,
    features: Annotated[
        Literal["inception", "mobilenet_v2"], typer.Option(help="What to score in; only with inception is it FID.")
    ] = "inception",
    inception_weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth, for --features inception.")
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    preset: Preset = None,
    step: Step = None,
    overrides: Overrides = None,
) -> None:
    """Draw the same images with every combination of guidance schedule, scale and top-k, and score them.

    What is drawn already is kept: started again, a killed job goes on. `torchrun -m elm_dist analyze sampling ...`
    draws on many processes.
    """
    from elm_dist.analysis.sampling_sweep import SamplingSweep, check_scoring
    from elm_dist.parallel.environment import process_environment
    from elm_dist.sampling.job import DrawingJob
    from elm_dist.sampling.run import sample_run

    sweep = SamplingSweep(
        run,
        out,
        schedules=parse_list("--schedules", schedules, str, "a list of schedules; write them as in constant,linear"),
        scales=parse_list("--scales", scales, float, "a list of numbers; write them as in 1,1.5,4"),
        top_k=parse_list("--top-k", top_k, int, "a list of whole numbers; write them as in 0,64"),
    )
    check_scoring(reference, features, inception_weights)

    def draw(folder: Path, settings: list[str], of_step: int | None) -> None:
        job = DrawingJob(run, folder, seed, batch_size, preset, of_step, [*(overrides or []), *settings])
        sample_run(job, per_class=per_class)

    sweep.draw(draw, step)
    if process_environment().is_main:
        present(
            sweep.score(reference, features=features, inception_weights=inception_weights, batch_size=batch_size),
            out,
        )
