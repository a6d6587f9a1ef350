"""`elm plan` as its user sees it: tables, advice, JSON, pictures, exit codes; all of it without torch."""

import json
import re
from pathlib import Path

import pytest
from command_line import elm, refused
from planned import CONFIGS
from test_architecture import run_without_torch

XXL = str(CONFIGS / "elm_xxl.yaml")


def test_it_reports_parameters_memory_time_and_advice() -> None:
    result = elm("plan", XXL, "--nodes", "2", "--gpu", "a800-80gb")
    assert result.code == 0
    for part in ("1,390,525,440 parameters on 16 GPUs", "optim", "activ", "MFU", "GPU-hours"):
        assert part in result.stdout
    assert "the network between replicas" in result.stdout
    assert "Change first:\n  parallel.pipeline_stages=" in result.stdout


def test_what_does_not_fit_is_shown_and_refused() -> None:
    arguments = ("plan", str(CONFIGS / "elm_7b.yaml"), "--nodes", "1", "--gpu", "rtx4090", "parallel.pipeline_stages=1")
    assert "GiB more than 85% of its GPU's 23.5 GiB; see the advice" in refused(*arguments)
    shown = elm(*arguments).stdout
    assert "memory: " in shown
    assert "Nothing that differs in one setting fits" in shown or "Change first" in shown


def test_json_holds_the_plan() -> None:
    result = elm("plan", XXL, "--nodes", "2", "--gpu", "a800-80gb", "--json")
    plan = json.loads(result.stdout)
    assert plan["parameters"] == sum(stage["parameters"] for stage in plan["stages"]) == 1_390_525_440
    assert sum(plan["step_parts"].values()) == pytest.approx(plan["step_seconds"])
    assert plan["stages"][0]["total"] == pytest.approx(sum(plan["stages"][0]["bytes"].values()))
    assert plan["fits"] is True
    assert plan["advice"][0]["hours"] < plan["hours"]


def test_json_is_complete_where_it_does_not_fit() -> None:
    seven = str(CONFIGS / "elm_7b.yaml")
    result = elm("plan", seven, "--nodes", "1", "--gpu", "rtx4090", "parallel.pipeline_stages=1", "--json")
    assert result.code == 2
    plan = json.loads(result.stdout)
    assert plan["fits"] is False
    assert plan["memory_share"] > 1


def test_the_search_ranks() -> None:
    arguments = (
        "plan",
        str(CONFIGS / "elm_l.yaml"),
        "--nodes",
        "1",
        "--gpu",
        "h100-80gb",
        "--gpus-per-node",
        "2",
        "--search",
    )
    ranked = json.loads(elm(*arguments, "--json").stdout)
    assert [plan["hours"] for plan in ranked] == sorted(plan["hours"] for plan in ranked)
    assert f"{len(ranked)} layouts fit" in elm(*arguments).stdout


def test_it_draws(tmp_path: Path) -> None:
    picture = tmp_path / "step.svg"
    pipeline = ("parallel.pipeline_stages=2", "schedule.micro_batch_size=8", "parallel.schedule=zbv")
    result = elm("plan", XXL, "--nodes", "2", "--gpu", "a800-80gb", "--draw", str(picture), *pipeline)
    assert result.code == 0
    assert "stage  1 |" in result.stdout
    assert picture.read_text().startswith("<svg")


def test_offloaded_bytes_are_told() -> None:
    result = elm("plan", XXL, "--nodes", "2", "--gpu", "a800-80gb", "parallel.offload=[optimizer]")
    assert "GiB of main memory on each node, offloaded" in result.stdout


def test_wrong_names_and_layouts_are_refused() -> None:
    assert "did you mean h100-80gb?" in refused("plan", XXL, "--nodes", "2", "--gpu", "h100")
    assert "no fabric is called" in refused("plan", XXL, "--nodes", "2", "--gpu", "h100-80gb", "--fabric", "token-ring")
    assert "does not divide over 24 replicas" in refused("plan", XXL, "--nodes", "3", "--gpu", "h100-80gb")


def test_the_documented_report_is_what_it_prints() -> None:
    page = (CONFIGS.parent / "docs" / "planning.md").read_text()
    block = page.partition("```\n$ elm ")[2].partition("```")[0]
    command, _, shown = block.partition("\n")
    arguments = [str(CONFIGS.parent / word) if word.startswith("configs/") else word for word in command.split()]
    printed = elm(*arguments).stdout
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()


@pytest.mark.parametrize(("name", "nodes"), [("L", 1), ("XL", 1), ("XXL", 2)])
def test_the_documented_days_are_what_it_plans(name: str, nodes: int) -> None:
    page = (CONFIGS.parent / "docs" / "planning.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| {name}, 2-"))
    published, days, hours, mfu, reached = (float(cell) for cell in re.findall(r"[\d.]+", row.split("A800")[1]))
    config = str(CONFIGS / f"elm_{name.lower()}.yaml")
    machines = ("--nodes", str(nodes), "--gpu", "a800-80gb", "--fabric", "ib-hdr200-x8")
    plan = json.loads(elm("plan", config, *machines, "--json").stdout)
    assert (days, hours) == (round(plan["hours"] / 24, 1), round(plan["hours"]))
    assert mfu == round(100 * plan["mfu"], 1)
    assert reached == pytest.approx(100 * plan["mfu"] * plan["hours"] / 24 / published, abs=0.051)


def test_help_says_what_it_takes() -> None:
    said = elm("plan", "--help")
    assert said.code == 0
    assert all(option in said.stdout for option in ("--nodes", "--gpu", "--fabric", "--search", "--draw", "--json"))
    assert " plan " in elm("--help").stdout


def test_it_needs_no_torch(tmp_path: Path) -> None:
    arguments = ["elm", "plan", XXL, "--nodes", "2", "--gpu", "a800-80gb", "--draw", str(tmp_path / "step.png")]
    report = run_without_torch(f"sys.argv = {arguments!r}\nfrom elm_dist.cli.main import main\nmain()")
    assert report.returncode == 0, report.stdout + report.stderr
