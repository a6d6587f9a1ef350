"""Every job of the study is a command that exists, on a configuration that loads, after all that it needs."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from elm_dist.cli.main import app
from elm_dist.config import Config
from elm_dist.config_file import load_config
from elm_dist.study.plan import Job, StudyPlan
from elm_dist.study.variants import BASE, BASE_SEEDS, SEEDS, SIZES, VARIANTS

CONFIG = Path(__file__).parent.parent.parent / "configs" / "study.yaml"
PLAN = StudyPlan(CONFIG, ("monitoring.log_every=7",), Path("out"), 5)
JOBS = PLAN.jobs()


COMMANDS = [shlex.split(command) for job in JOBS for command in job.commands]


def configuration(job: Job) -> Config:
    words = shlex.split(job.commands[0])
    return load_config(CONFIG, words[words.index(str(CONFIG)) + 1 :])


TRAININGS = {job.name: configuration(job) for job in JOBS if str(CONFIG) in job.commands[0]}


def test_names_are_unique() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)


def test_a_job_comes_after_what_it_needs() -> None:
    done: set[str] = set()
    for job in JOBS:
        assert done.issuperset(job.needs), job.name
        done.add(job.name)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    words = list(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("elm", words)  # raises for an option, a choice or an argument that is not there


def test_every_variant_is_trained_with_every_seed() -> None:
    trained = {name.removeprefix("train/") for name in TRAININGS if name.startswith("train/")}
    assert trained == {run for variant in VARIANTS for run in variant.runs()}
    assert {f"{BASE}-{seed}" for seed in BASE_SEEDS} <= trained
    assert {f"{name}-{seed}" for name in SIZES for seed in SEEDS} <= trained


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_has_its_seed_and_the_settings_of_all(name: str) -> None:
    config = TRAININGS[name]
    assert config.run.seed == int(name[-1])
    assert config.monitoring.log_every == 7
    assert config.tokenizer_training.images == Path("out/images")
    if name.startswith("train/"):
        assert config.run.directory == Path("out/runs") / name.removeprefix("train/")


def test_variants_differ_from_the_base_in_what_they_say_alone() -> None:
    base = TRAININGS[f"train/{BASE}-0"].model_dump()
    for variant in VARIANTS:
        config = TRAININGS[f"train/{variant.name}-0"].model_dump()
        config["run"]["directory"] = base["run"]["directory"]
        differing = {
            f"{section}.{key}"
            for section, settings in config.items()
            for key, value in settings.items()
            if value != base[section][key]
        }
        said = {setting.partition("=")[0] for setting in variant.settings}
        places = set() if variant.codes == "bernoulli" else {"data.shards", "tokenizer.directory"}
        assert said <= differing <= said | places
