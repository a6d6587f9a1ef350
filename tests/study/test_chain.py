"""The whole study on tiles of photographs, every command of it with real results, and its page."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import elm
from photographs import write_tiles

from elm_dist.study.claims import FINDINGS
from elm_dist.study.jobs import Record, run_jobs
from elm_dist.study.plan import StudyPlan
from elm_dist.study.publish import publish_study
from elm_dist.study.run import choose_images

ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "tokenizer.base_channels=32",
    "tokenizer.embedding_channels=32",
    "tokenizer_training.total_steps=2",
    "tokenizer_training.batch_size=4",
    "tokenizer_training.warmup_steps=0",
    "schedule.total_steps=4",
    "schedule.global_batch_size=4",
    "schedule.micro_batch_size=4",
    "schedule.warmup_steps=0",
    "checkpoint.every=0",
    "model.num_classes=4",
    "monitoring.log_every=1",
    "monitoring.validation_every=2",
    "monitoring.validation_samples=4",
    "monitoring.sample_classes=[0]",
)


@pytest.mark.slow
def test_every_job_does_its_part_and_the_page_shows_it(tmp_path: Path) -> None:
    """All but the trainings in this process, which spares many starts; DeepSpeed starts only once in a process."""
    plan = StudyPlan(ROOT / "configs" / "study.yaml", SMALL, tmp_path / "out", per_class=2)
    choose_images(write_tiles(tmp_path / "images", train=20, validation=8), plan.images)
    records: dict[str, Record] = {}
    for job in plan.jobs():
        if job.name.startswith("train/"):
            records |= run_jobs([replace(job, needs=())], plan.out, workers=1)
            continue
        for command in job.commands:
            result = elm(*shlex.split(command))
            assert result.code == 0, (command, result)
        records[job.name] = Record(list(job.commands), 1.0, 1.0)
    publish_study(plan, records, tmp_path / "page")
    page = (tmp_path / "page" / "README.md").read_text()
    images = len(list((plan.images / "train").glob("*/*")))
    assert f"on {images} images of" in page
    assert page.count("Verdict: **") == len(FINDINGS)
    assert {"fd.svg", "bits.svg", "scaling.svg", "samples.png"} <= {path.name for path in (tmp_path / "page").iterdir()}
