"""What TensorBoard shows of a run that fell ill, went back, was killed and resumed, as its users see it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import open_page
from playwright.sync_api import Page, expect
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained_run import TINY, folders, tokenize_tiles

from elm_dist.monitoring import charts, metrics

ROOT = Path(__file__).parent.parent.parent
ILL_RUN = ROOT / "tests" / "training" / "ill_run.py"
STEPS = list(range(1, 14))
SETTINGS = [
    *("schedule.total_steps=13", "checkpoint.every=5", "monitoring.log_every=1", "monitoring.sample_every=5"),
    "health.skips_before_rollback=3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went back from step 9 to 5, and that began again at 10 when it had reported up to 13."""
    directory = tmp_path_factory.mktemp("watched")
    run, tiles = directory / "run", tokenize_tiles(directory)
    command = [sys.executable, str(ILL_RUN), "--config", str(TINY), *folders(tiles, run), *SETTINGS]
    for said in ("back from step 9", "resuming"):
        result = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert result.returncode == 0, result.stderr
        assert said in result.stderr
        if said != "resuming":
            (run / "checkpoints" / "latest").write_text("step_00000010")
            (run / "checkpoints" / "step_00000013" / "manifest.json").unlink()
    return run


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows it, on a port that was free."""
    command = [Path(sys.executable).parent / "tensorboard", "--logdir", run, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = (re.search(r"http://\S+", line) for line in process.stderr if line.startswith("TensorBoard"))
        address = next(found)
        assert address
        yield address[0]
        process.terminate()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    with open_page(f"{address}#custom_scalars") as page:
        yield page


def documented_metrics() -> list[str]:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    measured = text.partition("## What is measured")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\S+)` \|", measured, re.MULTILINE)


def charted_patterns() -> list[str]:
    return [tag for category in charts.TRAINING.values() for _, tags in category.values() for tag in tags]


def numbered(name: str) -> str:
    """Return a metric's name as the documentation writes it."""
    return re.sub(r"(head|stage)_\d+$", r"\1_N", name)


def test_the_documentation_lists_every_metric_once() -> None:
    names = [value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)]
    names += [metrics.stage_memory(0)]
    names += [name for split in ("train", "validation") for name in metrics.loss_metrics(split, [1.0], [1.0], 1)]
    assert sorted(documented_metrics()) == sorted({numbered(name) for name in names})


def test_every_metric_of_a_run_is_documented_and_each_step_is_there_once(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    assert {numbered(tag) for tag in tags} <= set(documented_metrics())
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in tags}
    assert steps[metrics.LOSS] == steps[metrics.GOODPUT_PERCENT] == STEPS
    assert all(found == sorted(set(found)) for found in steps.values())
    assert [event.step for event in events.Images(metrics.SAMPLE_GRID)] == [5, 10, 13]
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports if metrics.LOSS in report] == STEPS


def test_every_chart_is_of_a_metric() -> None:
    """So that none stays empty when a metric is renamed; those of GPUs and pipelines are not in the run above."""
    names = [name.replace("_N", "_0") for name in documented_metrics()]
    assert [pattern for pattern in charted_patterns() if not any(re.match(pattern, name) for name in names)] == []


def test_tensorboard_draws_the_charts(page: Page, run: Path) -> None:
    for category in charts.TRAINING.values():
        for title in category:
            expect(page.get_by_text(title, exact=True)).to_be_attached()
    reported = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    charted = {name for name in reported if any(re.match(pattern, name) for pattern in charted_patterns())}
    entries = page.locator(".match-list-entry")  # of the charts' legends: a symbol, the metric and its run
    expect(entries).to_have_count(len(charted))
    assert {entry.split()[1] for entry in entries.all_text_contents()} == charted
    assert len(charted) == 18  # as many as there are charts, and six more lines in them


def test_tensorboard_shows_each_step_once(page: Page, address: str) -> None:
    """It reads the files by other code than the accumulator above."""
    points = page.request.get(f"{address}data/plugin/scalars/scalars?tag={metrics.LOSS}&run=tensorboard").json()
    assert [step for _, step, _ in points] == STEPS


def test_tensorboard_tells_the_configuration_and_what_went_wrong(page: Page) -> None:
    page.get_by_role("tab", name="text").click()
    expect(page.get_by_text("learning_rate: 0.001").first).to_be_visible()
    expect(page.get_by_text("back from step 9 to the checkpoint of step 5, and on with later data")).to_be_visible()
