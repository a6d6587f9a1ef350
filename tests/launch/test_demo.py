"""The demo's verdict and its errors; the chain itself runs in test_readme.py."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import elm, refused
from photographs import write_tiles
from rich.console import Console

from elm_dist.config_file import load_config
from elm_dist.launch.demo import DemoReport, Row, run_demo

DEMO = Path(__file__).parent.parent.parent / "configs" / "demo.yaml"

GOOD = DemoReport(
    config=load_config(DEMO),
    rows=[Row("images", 12.3, "60,000 images")],
    bits=0.90,
    marginal_bits=0.99,
    mean_image_ratio=9.0,
    psnr_db=22.0,
    scores={
        "samples class_agreement": 0.412,
        "reconstructions class_agreement": 0.567,
        "real class_agreement": 0.809,
        "samples FD-MobileNetV2": 312.4,
        "reconstructions FD-MobileNetV2": 201.6,
        "real FD-MobileNetV2": 85.0,
    },
)


def show(report: DemoReport) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_report_shows_stages_figures_and_places() -> None:
    said = show(GOOD)
    for part in (
        "60,000 images",
        "12 s",
        "22.00 dB",
        "9.0 times",
        "0.9000",
        "0.9900",
        "0.9702",
        "classes      samples 41.2%, reconstructions 56.7%, real 80.9%: look like their class (chance: 10%)",
        "distance     samples 312, reconstructions 202, real 85: in FD-MobileNetV2 from real training images",
        "tensorboard --logdir runs/demo",
    ):
        assert part in said
    assert "runs/demo/samples/final/grid.png" in said
    assert "proven: both bars are met" in said


@pytest.mark.parametrize("worse", [{"bits": 0.98}, {"mean_image_ratio": 3.9}])
def test_a_bar_that_is_not_met_fails_loudly(worse: dict[str, float]) -> None:
    report = replace(GOOD, **worse)
    assert not report.is_proven
    assert "FAILED: a bar is not met" in show(report)


def test_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert "error:" in refused("demo", str(DEMO), "--images", str(tmp_path / "none"))


def test_a_stage_that_fails_ends_the_demo_with_its_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file lies where the tokenizer's folder belongs."""
    images = write_tiles(tmp_path / "images", train=2, validation=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer").write_text("in the way")
    overrides = [f"run.directory={tmp_path / 'run'}", f"tokenizer.directory={tmp_path / 'run' / 'tokenizer'}"]
    with caplog.at_level("ERROR"), pytest.raises(SystemExit) as end:
        run_demo(DEMO, images, overrides)
    assert end.value.code in (1, 2)
    assert "the stage `tokenizer` failed with exit code" in caplog.text


def test_a_wrong_setting_is_refused_before_any_work(tmp_path: Path) -> None:
    assert "unknown key" in refused("demo", str(DEMO), f"run.directory={tmp_path}", "model.depth=3")
    assert elm("demo", str(tmp_path / "none.yaml")).code == 2
    assert not list(tmp_path.iterdir())
