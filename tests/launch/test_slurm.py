"""The batch script of `elm submit`: its options, and that no word of its user's is ever read as bash.

On a real SLURM: `tests/cluster/`.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import elm, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_dist.errors import ConfigError, LaunchError, LayoutError
from elm_dist.launch import slurm
from elm_dist.launch.slurm import CLUSTER, Job, render_script

ROOT = CLUSTER.parent
DEMO = ROOT / "configs" / "demo.yaml"

NASTY = [
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "&& touch canary #",
    "| touch canary",
    "'; touch canary; '",
    '"; touch canary; "',
    "\n touch canary\n",
    "\n#SBATCH --wrap='touch canary'\n",
    "\\'$(touch canary)",
    "${IFS}$(touch${IFS}canary)",
    "> canary",
    "* ? ~ !! \t  two  spaces",
    "--wrap=touch canary",
]

# Instead of `source .../common.sh`: what bash makes of the call is written down.
WRITE_DOWN = "run_training() { printf '%s\\0' \"$@\" >called; }"


def words_that_bash_reads(script: str, folder: Path) -> list[str]:
    """Run the script in `folder` and return the words that run_training is called with."""
    lines = script.split("\n")
    source = next(number for number, line in enumerate(lines) if line.startswith("source "))
    lines[source] = WRITE_DOWN
    subprocess.run(["bash", "-c", "\n".join(lines)], cwd=folder, check=True)
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".yaml") == ["called"]
    return (folder / "called").read_text().split("\0")[:-1]


def options_of(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("nasty", NASTY)
def test_an_override_reaches_the_job_as_it_was_typed(nasty: str, tmp_path: Path) -> None:
    override = f"run.directory={json.dumps(nasty)}"
    script = render_script(Job(DEMO, (override,), gpus_per_node=2))
    assert words_that_bash_reads(script, tmp_path) == [str(DEMO), override]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@settings(max_examples=30, deadline=None)
def test_any_text_does(text: str) -> None:
    override = f"run.directory={json.dumps(text)}"
    script = render_script(Job(DEMO, (override,), gpus_per_node=2))
    call = script[script.index("\nrun_training ") :]
    printed = subprocess.run(["bash", "-c", f"run_training() {{ printf '%s\\0' \"$@\"; }}{call}"], capture_output=True)
    assert printed.stdout.decode().split("\0") == [str(DEMO), override, ""]


@pytest.mark.parametrize("nasty", NASTY)
def test_a_configuration_of_any_name_gives_a_job_of_a_plain_one(nasty: str, tmp_path: Path) -> None:
    config = tmp_path / f"{nasty.replace('/', '')}.yaml"
    config.write_text(DEMO.read_text())
    script = render_script(Job(config, gpus_per_node=2))
    head = script[: script.index("\nsource ")].splitlines()
    assert head[0] == "#!/usr/bin/env bash"
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[A-Za-z0-9_:%@.-]+)?", line) for line in head[1:])
    assert words_that_bash_reads(script, tmp_path) == [str(config)]


def test_the_options_are_those_of_the_job() -> None:
    options = options_of(render_script(Job(ROOT / "configs" / "elm_7b.yaml", nodes=8, gpus_per_node=4, time="2-12")))
    assert options[:6] == [
        *("--job-name=elm_7b", "--nodes=8", "--ntasks-per-node=4", "--gres=gpu:4", "--cpus-per-task=8", "--time=2-12")
    ]


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("train_elm_*.sh")), ids=lambda path: path.stem)
def test_the_scripts_of_the_repository_are_what_elm_submit_renders(path: Path) -> None:
    written = path.read_text()
    config = Path("configs") / f"{path.stem.removeprefix('train_')}.yaml"
    hardware = re.search(r"# Hardware: (\d+) x A100", (ROOT / config).read_text())
    assert hardware
    rendered = render_script(Job(ROOT / config, nodes=int(hardware[1]) // 8))
    assert options_of(written) == options_of(rendered)
    assert written.splitlines()[-2:] == ["source cluster/common.sh || exit", f'run_training {config} "$@"']
    assert f"# sbatch cluster/{path.name} " in written


def test_the_other_scripts_have_the_same_options() -> None:
    expected = options_of(render_script(Job(ROOT / "configs" / "elm_l.yaml")))
    for name in ("train_tokenizer", "tokenize_imagenet", "sample_fid"):
        assert options_of((CLUSTER / f"{name}.sh").read_text())[1:] == expected[1:]


def test_each_seed_of_an_array_gets_a_folder_in_that_of_the_run() -> None:
    script = render_script(Job(DEMO, gpus_per_node=2, seeds="0-3,7%2"))
    assert "--array=0-3,7%2" in options_of(script)
    assert script.endswith(f"run_training {DEMO} run.directory=runs/demo\n")
    elsewhere = render_script(Job(DEMO, ("run.directory=there",), gpus_per_node=2, seeds="1"))
    assert elsewhere.endswith(f"run_training {DEMO} run.directory=there\n")


def test_a_dry_run_prints_the_script_and_needs_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["submit", str(DEMO), "--nodes", "2", "--gpus-per-node", "1", "run.seed=5"]
    result = elm(*arguments, "--dry-run")
    assert result.code == 0
    assert result.stdout == render_script(Job(DEMO, ("run.seed=5",), nodes=2, gpus_per_node=1))
    assert "there is no sbatch on this machine; log in to a cluster with SLURM, or see --dry-run" in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("time", "soon", r"--time: 'soon' is no time; write it as in 24:00:00, or 2-12 \(days-hours\)"),
        ("time", "1:00\n#SBATCH --wrap=x", r"is no time"),
        ("seeds", "all", r"--array: 'all' is no list of seeds; write it as in 0-3 or 1,5"),
        ("seeds", "0-3 --wrap=x", r"is no list of seeds"),
    ],
)
def test_options_that_slurm_would_read_otherwise_are_refused(option: str, value: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        render_script(Job(DEMO, gpus_per_node=2, **{option: value}))  # type: ignore[arg-type]


def test_what_would_fail_on_its_nodes_is_refused_here() -> None:
    with pytest.raises(LayoutError, match=r"3 processes cannot form pipelines of parallel\.pipeline_stages=2"):
        render_script(Job(DEMO, nodes=3, gpus_per_node=1))
    with pytest.raises(ConfigError, match=r"schedule\.total_step: unknown key; did you mean total_steps"):
        render_script(Job(DEMO, ("schedule.total_step=3",), gpus_per_node=2))


def test_without_a_checkout_there_is_nothing_to_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm, "CLUSTER", tmp_path / "cluster")
    with pytest.raises(LaunchError, match=r"there is no common\.sh here, which every job needs; use a checkout"):
        render_script(Job(DEMO, gpus_per_node=2))


def test_the_guide_names_every_script_and_every_setting() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()
    for script in CLUSTER.glob("*.sh"):
        assert script.name in guide, script.name
    settings = re.findall(r"\b([A-Z_]{6,})=", (CLUSTER / "site.env.example").read_text())
    assert "MAX_RESTARTS" in settings
    assert not [name for name in settings if name not in guide]


@pytest.mark.parametrize("script", ["train_tokenizer", "tokenize_imagenet", "sample_fid"])
def test_the_other_scripts_call_commands_with_options_that_are_there(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what they work on, each command gives its own error and not one of the command line's."""
    monkeypatch.chdir(tmp_path)
    calls = re.findall(r"-m elm_dist (.+)", (CLUSTER / f"{script}.sh").read_text().replace("\\\n", ""))
    assert calls
    for call in calls:
        words = [word.replace("$run", "nowhere") for word in shlex.split(call.replace('"$@"', ""))]
        assert "Usage: " not in refused(*words)
