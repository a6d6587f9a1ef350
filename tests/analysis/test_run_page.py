"""`elm report`: the page of a run as a browser shows it, of several runs, and of runs that did not go well."""

import json
import re
import shutil
import time
from html import escape
from pathlib import Path

import numpy as np
import pytest
from browser import open_page
from command_line import elm, refused
from PIL import Image
from playwright.sync_api import Page, Request

from elm_dist.analysis.run_charts import CURVE_POINTS, thin
from elm_dist.analysis.run_findings import tokenizer_facts
from elm_dist.analysis.run_page import render_runs
from elm_dist.analysis.run_plan import compare
from elm_dist.analysis.run_record import Curve, duration, read_runs
from elm_dist.monitoring import metrics as names
from elm_dist.parallel.layout import plan_layout

NOW = 2_000_000_000.0  # seconds since 1970
FACTS = ("config.yaml", "environment.json", "events.jsonl", "metrics.jsonl", "samples")


def copy_of(run: Path, directory: Path) -> Path:
    """Return a copy of what the page reads in the folder of a run, to be changed."""
    directory.mkdir(parents=True)
    for name in FACTS:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, directory / name)
    return directory


def page_of(*runs: Path, now: float = NOW) -> str:
    return render_runs(read_runs(runs, now), {}, [])


def write_events(run: Path, *events: tuple[str, float, int]) -> None:
    """Write events of (kind, seconds after NOW, step)."""
    lines = [{"event": kind, "time": NOW + seconds, "step": step} for kind, seconds, step in events]
    (run / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture(scope="module")
def tried(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another learning rate, with a killed process, a rollback and a fault."""
    run = copy_of(trained, tmp_path_factory.mktemp("runs") / "<b>&")
    text = (run / "config.yaml").read_text()
    assert "learning_rate: 0.001" in text
    (run / "config.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    write_events(
        run,
        *(("start", 0, 0), ("save", 3, 3), ("progress", 5, 5)),  # and killed
        *(("start", 9, 3), ("progress", 12, 6), ("rollback", 13, 3), ("progress", 15, 5), ("fault", 16, 5)),
    )
    return run


@pytest.fixture(scope="module")
def out(trained: Path, tried: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of one run and of two."""
    out = tmp_path_factory.mktemp("pages")
    (tried / "analysis").mkdir()
    write_finding(tried / "analysis", "What was <found>")
    assert elm("report", str(trained), "--out", str(out / "one.html")).code == 0
    assert elm("report", str(trained), str(tried), "--out", str(out / "two.html")).code == 0
    return out


def write_finding(folder: Path, title: str) -> None:
    facts = {"title": title, "summary": {"mean_nats": 0.123456}, "settings": {"seed": 7}}
    (folder / "finding.json").write_text(json.dumps(facts))
    (folder / "finding.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')


def leaving(page: Page) -> list[str]:
    """Load the page again and return what it asks for beside itself."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith("data:"):
            asked.append(request.url)

    page.on("request", note)
    page.reload()
    return [url for url in asked if url != page.url]


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_browser_shows_the_page_on_a_phone_and_on_a_desk(out: Path, tmp_path: Path, name: str) -> None:
    with open_page((out / f"{name}.html").as_uri()) as page:
        assert leaving(page) == []
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 844})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            sizes = page.evaluate("[...document.images].map(image => image.naturalWidth)")
            assert len(sizes) > 8
            assert min(sizes) > 0
            page.screenshot(path=tmp_path / "page.png", full_page=True)
            pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
            assert pixels.shape[1] == width
            assert pixels.std() > 10, "blank"
            assert (np.median(pixels) < 128) == (scheme == "dark")


def test_the_film_shows_one_picture_and_a_button_picks_another(out: Path) -> None:
    with open_page((out / "one.html").as_uri()) as page:
        frames = page.locator(".film figure")
        assert [frame.is_visible() for frame in frames.all()] == [False, True]
        page.get_by_text("step 3", exact=True).click()
        assert [frame.is_visible() for frame in frames.all()] == [True, False]


def test_the_page_of_a_finished_run_tells_what_it_was(trained: Path, out: Path) -> None:
    page = (out / "one.html").read_text()
    for said in ("Finished", "at step 6 of 6", "one start", "No fault.", "plans are of GPUs", "astronaut, chelsea"):
        assert said in page, said
    for title in ("Loss (nats)", "Learning rate", "Gradient norm", "Images per second", "Goodput (%)"):
        assert f'alt="{escape(title)}: run from ' in page
    assert "What differs" not in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_comparison_begins_with_what_differs_and_escapes_names(out: Path) -> None:
    page = (out / "two.html").read_text()
    differences = page[page.index("What differs") : page.index("<h2>Curves")]
    assert re.findall("<dt>(.*?)</dt>", differences) == ["optimizer.learning_rate"]
    assert re.findall("<b>(.*?)</b>", differences) == ["0.001", "0.002"]
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "What was &lt;found&gt;" in page
    assert "0.1235" in page


def test_a_run_with_itself_is_one_run_and_two_of_one_name_go_by_their_paths(trained: Path, tmp_path: Path) -> None:
    assert [run.name for run in read_runs([trained, trained / ".." / trained.name], NOW)] == [trained.name]
    other = copy_of(trained, tmp_path / trained.name)
    assert [run.name for run in read_runs([trained, other], NOW)] == [str(trained), str(other)]
    assert "No setting but the folder differs." in page_of(trained, other)


def test_faults_are_told_with_what_was_done_twice(tried: Path) -> None:
    record = read_runs([tried], NOW)[0]
    assert [(event.kind, event.step) for event in record.breaks] == [("progress", 5), ("progress", 6), ("fault", 5)]
    page = page_of(tried)
    assert "3 faults, the newest last:" in page
    assert "after step 6: went back to step 3" in page
    assert "Ended by a fault" in page


@pytest.mark.parametrize(
    ("last", "seconds_later", "state"),
    [
        ("progress", 60, "Running"),
        ("progress", 3600, "Without a sign of life"),
        ("save", 60, "Running"),
        ("stop", 3600, "Stopped on request"),
        ("fault", 60, "Ended by a fault"),
        ("finish", 60, "Finished"),
    ],
)
def test_the_last_event_says_how_a_run_is(
    trained: Path, tmp_path: Path, last: str, seconds_later: float, state: str
) -> None:
    run = copy_of(trained, tmp_path / "run")
    write_events(run, ("start", -10, 0), (last, 0, 4))
    assert f'<span class="state">{state}</span>' in page_of(run, now=NOW + seconds_later)


def test_a_run_that_has_just_begun_has_a_page(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert "Not started" in page
    assert "No step was reported yet." in page
    assert 'class="film"' not in page


def test_torn_lines_and_what_is_no_number_are_left_out(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/loss": NaN, "speed/mfu_percent": 41}\n[]\n{"step": 8, "train/lo')
    (run / "samples" / "step_00000006.png").write_bytes(b"")
    (run / "environment.json").write_text('{"device"')
    record = read_runs([run], NOW)[0]
    assert record.step == 7
    assert record.curves[names.LOSS].steps.tolist() == [1, 2, 3, 4, 5, 6]
    page = page_of(run)
    assert 'alt="MFU (%)' in page
    assert page.count("<label") == 1, "the picture that can be read"


def test_a_spike_survives_the_thinning() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321] = 99
    curve = thin(Curve(np.arange(100_000), values))
    assert len(curve.steps) <= CURVE_POINTS
    assert (np.diff(curve.steps) > 0).all()
    assert curve.steps[curve.values.argmax()] == 54_321
    assert curve.values.min() == values.min()


def as_on_gpus(run: Path, directory: Path, processes: int) -> Path:
    """Return a copy of a run, with the environment and the metrics that it would have had on GPUs."""
    copy = copy_of(run, directory)
    config = read_runs([copy], NOW)[0].config
    facts = {"device": "cuda:0", "layout": str(plan_layout(config, processes))}
    (copy / "environment.json").write_text(json.dumps(facts))
    return copy


def test_what_elm_plan_says_stands_beside_what_was_measured(trained: Path, tmp_path: Path) -> None:
    run, out = as_on_gpus(trained, tmp_path / "run", processes=4), tmp_path / "page.html"
    assert elm("report", str(run), "--out", str(out)).code == 0
    assert "name with --gpu" in out.read_text()
    assert elm("report", str(run), "--out", str(out), "--gpu", "a100-80gb").code == 0
    page = out.read_text()
    assert "for 4 x a100-80gb" in page
    machines = ("--nodes", "1", "--gpus-per-node", "4", "--gpu", "a100-80gb")
    planned = elm("plan", str(run / "config.yaml"), *machines, "--json")
    speed = json.loads(planned.stdout)["images_per_second"]
    assert f"<small>planned {speed:,.4g}</small>" in page
    assert "memory of the fullest stage" in page
    said = refused("report", str(run), "--out", str(out), "--gpu", "a100-80gb", "--gpus-per-node", "3")
    assert "had 4 processes, which do not fill machines of 3 GPUs; say with --gpus-per-node how many each had" in said
    assert "no GPU is called a200" in refused("report", str(run), "--out", str(out), "--gpu", "a200")


def test_the_bubble_of_a_pipeline_is_planned_on_a_cpu_too(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("pipeline_stages: 1", "pipeline_stages: 2"))
    layout = str(plan_layout(read_runs([run], NOW)[0].config, 2))
    (run / "environment.json").write_text(json.dumps({"device": "cpu", "layout": layout}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, names.BUBBLE_PERCENT: 25.0}) + "\n")
    (found,) = compare(read_runs([run], NOW)[0], None)
    assert (found.name, found.measured) == ("pipeline bubble", 25.0)
    assert found.planned >= 100 * 1 / 5 - 1e-9, "two even stages and four micro-batches; uneven ones wait longer"


def test_reports_of_the_tokenizer_are_found(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    record = read_runs([run], NOW)[0]
    assert record.data is not None
    shutil.copytree(record.config.tokenizer.directory, tmp_path / "tokenizer")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(record.config.tokenizer.directory), str(tmp_path / "tokenizer")))
    (tmp_path / "tokenizer" / "report.json").write_text(json.dumps({"psnr_db": 20.5, "images": 64, "steps": 1600}))
    facts = {fact.name: fact for fact in tokenizer_facts(read_runs([run], NOW)[0])}
    assert facts["PSNR"].value == "20.50 dB"
    assert "64" in facts["PSNR"].meaning
    images, report = record.config.tokenizer.directory.parent / "images", tmp_path / "judged"
    options = ("--images", str(images), "--out", str(report), "--features", "none")
    assert elm("tokenizer", "report", str(tmp_path / "tokenizer"), *options).code == 0
    measured = json.loads((report / "report.json").read_text())
    facts = {fact.name: fact for fact in tokenizer_facts(read_runs([run], NOW)[0])}
    assert facts["PSNR"].value == f"{measured['psnr_db']['mean']:.2f} dB"
    assert facts["Codes used"].value == f"{measured['codes']['utilization']:.2%}"
    measured["settings"]["tokenizer_fingerprint"] = "of another"
    (report / "report.json").write_text(json.dumps(measured))
    facts = {fact.name: fact for fact in tokenizer_facts(read_runs([run], NOW)[0])}
    assert facts["PSNR"].value == "20.50 dB"


def test_findings_are_taken_from_named_folders(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    said = refused("report", str(trained), "--out", str(out), "--analysis", str(tmp_path))
    assert f"{tmp_path}: there are no findings here" in said
    assert not out.exists()
    write_finding(tmp_path, "One thing")
    assert elm("report", str(trained), "--out", str(out), "--analysis", str(tmp_path)).code == 0
    assert "<h3>One thing</h3>" in out.read_text()


def test_pictures_that_were_drawn_later_stand_with_their_scores(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    final = run / "samples" / "final"
    assert elm("sample", str(trained), "--out", str(final), "--classes", "0,1").code == 0
    (final / "scores.json").write_text(json.dumps({"scores": {"samples FID": 12.5, "note": "none"}}))
    page = page_of(run)
    assert "final, step 6, guidance" in page
    assert "<div>samples FID<b>12.5</b>" in page


def test_what_cannot_be_shown_or_written_is_refused(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert f"{tmp_path} is not a run: it has no config.yaml" in refused("report", str(tmp_path), "--out", str(out))
    assert "Missing argument 'RUN...'" in refused("report", "--out", str(out))
    assert not out.exists()
    said = refused("report", str(trained), "--out", str(tmp_path))
    assert f"{tmp_path}: the page cannot be written (it is a folder); name another file with --out" in said
    (tmp_path / "file").touch()
    said = refused("report", str(trained), "--out", str(tmp_path / "file" / "page.html"))
    assert "the page cannot be written (File exists); name another file with --out" in said


def test_an_earlier_page_stays_whole_where_the_new_one_fails(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    out.write_text("the earlier one")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elm_dist.files.sync", full_disk)
    assert "(No space left on device)" in refused("report", str(trained), "--out", str(out))
    assert out.read_text() == "the earlier one"


def test_durations_are_short() -> None:
    seconds = (4, 240, 3 * 3600 + 300, 2 * 86400 + 4 * 3600)
    assert [duration(each) for each in seconds] == ["4 s", "4 min", "3 h 05 min", "2 d 04 h"]


def test_a_page_says_when_it_was_made(trained: Path) -> None:
    assert time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(NOW)) in page_of(trained)
