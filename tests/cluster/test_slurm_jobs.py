"""What `cluster/common.sh` makes of a job, on a real SLURM, with processes that need no torch."""

import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, wait_until

from elm_dist.launch.slurm import CLUSTER, Job, render_script

pytestmark = pytest.mark.slurm

ROOT = CLUSTER.parent
DEMO = ROOT / "configs" / "demo.yaml"
SCRIPTS = sorted(path for path in CLUSTER.glob("*.sh") if path.stem != "common")

PROCESS = """
import os, signal, sys, time
from pathlib import Path

def stop(number, frame):
    Path(f"saved-{name}").touch()
    sys.exit(0)

for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, stop)
name = os.environ.get("SLURM_ARRAY_TASK_ID", "0") + "-" + os.environ["SLURM_PROCID"]
with open(f"started-{name}", "a") as file:
    print(" ".join(sys.argv[1:]), file=file)
if "crash" in sys.argv and name == "0-1":
    sys.exit(41)
if "wrong" in sys.argv:  # as train.py ends: each process with the code of its own error
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.5)
    sys.exit(2)
Path(f"ready-{name}").touch()
while not Path("end").exists():
    time.sleep(0.1)
"""

JOB = """#!/bin/bash
#SBATCH --ntasks-per-node=2 --gres=gpu:2 --requeue --open-mode=append --output=%x-%j.log
source {common} || exit
MAX_RESTARTS=2
{call}
echo "the script went on"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "process.py").write_text(PROCESS)
    return tmp_path


def submit(
    cluster: SlurmCluster, folder: Path, *options: str, call: str = "run_processes process.py", scripts: Path = CLUSTER
) -> str:
    (folder / "job.sh").write_text(JOB.format(common=scripts / "common.sh", call=call))
    return cluster.submit(*options, "job.sh", cwd=folder)


def wait_for_files(folder: Path, *names: str) -> None:
    wait_until(
        lambda: all((folder / name).exists() for name in names) or None,
        lambda: f"{names} did not come: {read_logs(folder)}",
    )


def read_logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


def test_srun_starts_one_process_for_each_gpu(cluster: SlurmCluster, folder: Path) -> None:
    (folder / "end").touch()
    job = submit(
        cluster, folder, "--nodes=2", call="run_processes process.py 'two  words' '$(touch canary)' ';touch canary'"
    )
    cluster.wait_for(job, "COMPLETED")
    assert {path.name for path in folder.glob("started-*")} == {f"started-0-{rank}" for rank in range(4)}
    assert (folder / "started-0-3").read_text() == "two  words $(touch canary) ;touch canary\n"
    assert not (folder / "canary").exists()
    assert "the script went on" in read_logs(folder)


def test_a_job_may_end_with_one_process(cluster: SlurmCluster, folder: Path) -> None:
    (folder / "end").touch()
    job = submit(cluster, folder, "--nodes=2", call="run_process process.py")
    cluster.wait_for(job, "COMPLETED")
    assert [path.name for path in folder.glob("started-*")] == ["started-0-0"]
    assert "the script went on" in read_logs(folder)


def test_a_job_that_is_told_to_stop_saves_and_is_requeued(cluster: SlurmCluster, folder: Path) -> None:
    job = submit(cluster, folder, "--nodes=2")
    ready = [f"ready-0-{rank}" for rank in range(4)]
    wait_for_files(folder, *ready)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    wait_for_files(folder, *(f"saved-0-{rank}" for rank in range(4)))
    (folder / "end").touch()
    cluster.wait_for_restart(job)
    assert cluster.wait_for(job, "COMPLETED")["Restarts"] == "1"
    log = read_logs(folder)
    assert f"cluster: job {job} was started 0 times before; told to stop" in log
    assert log.count("the script went on") == 1


def test_a_job_near_its_time_limit_saves_and_is_requeued(cluster: SlurmCluster, folder: Path) -> None:
    """SLURM looks every half minute whether the signal, which is due five minutes before the limit, is to be sent."""
    job = submit(cluster, folder, "--nodes=1", "--time=60", "--signal=B:USR1@300")
    wait_for_files(folder, "ready-0-0", "ready-0-1")
    end = datetime.now() + timedelta(minutes=4)
    cluster.run("scontrol", "update", f"JobId={job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    wait_until(lambda: (folder / "saved-0-1").exists() or None, lambda: read_logs(folder), 60)
    (folder / "end").touch()
    cluster.wait_for_restart(job)
    assert cluster.wait_for(job, "COMPLETED")["Restarts"] == "1"


def test_a_job_that_is_preempted_saves_and_is_requeued(cluster: SlurmCluster, folder: Path) -> None:
    """Where the partition gives a time of grace, SLURM tells the processes alone, and not the script."""
    job = submit(cluster, folder, "--nodes=2", "--nodelist=gpu[2-3]")
    wait_for_files(folder, *(f"ready-0-{rank}" for rank in range(4)))
    urgent = ["--partition=urgent", "--nodelist=gpu[2-3]", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    other = cluster.submit(*urgent, cwd=folder)
    cluster.wait_for(other, "COMPLETED")
    assert (folder / "saved-0-3").exists()
    (folder / "end").touch()
    cluster.wait_for_restart(job)
    assert cluster.wait_for(job, "COMPLETED")["Restarts"] == "1"
    assert read_logs(folder).count("the script went on") == 1


def test_a_job_that_must_not_be_requeued_ends_well_when_it_is_told_to_stop(cluster: SlurmCluster, folder: Path) -> None:
    """So that `--dependency=afterok` goes on with the chain."""
    job = submit(cluster, folder, "--nodes=1", "--no-requeue")
    wait_for_files(folder, "ready-0-0", "ready-0-1")
    cluster.run("scancel", "--signal=USR2", "--batch", job)  # as sites that keep USR1 for themselves send it
    cluster.wait_for(job, "COMPLETED")
    assert (folder / "saved-0-1").exists()
    assert "the script went on" not in read_logs(folder)


def test_a_job_that_crashes_is_requeued_so_often_and_no_more(cluster: SlurmCluster, folder: Path) -> None:
    job = submit(cluster, folder, "--nodes=2", call="run_processes process.py crash")
    cluster.wait_for_restart(job, 1)
    cluster.wait_for_restart(job, 2)
    assert cluster.wait_for(job, "FAILED")["Restarts"] == "2"
    assert (folder / "started-0-1").read_text() == "crash\n" * 3
    assert read_logs(folder).count("its processes ended with") == 2


def test_wrong_input_is_not_tried_again(cluster: SlurmCluster, folder: Path) -> None:
    job = submit(cluster, folder, "--nodes=2", call="run_processes process.py wrong")
    found = cluster.wait_for(job, "FAILED")
    assert (found["Restarts"], found["ExitCode"]) == ("0", "2:0")


def test_one_task_of_an_array_is_requeued_without_the_others(cluster: SlurmCluster, folder: Path) -> None:
    """The last task, whose number is that of the whole array."""
    job = submit(cluster, folder, "--nodes=1", "--array=0-1")
    wait_for_files(folder, *(f"ready-{task}-{rank}" for task in range(2) for rank in range(2)))
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_1")
    wait_for_files(folder, "saved-1-0")
    cluster.wait_for_restart(f"{job}_1")
    wait_until(lambda: (folder / "started-1-0").read_text() == "\n\n" or None, lambda: read_logs(folder))
    (folder / "end").touch()
    cluster.wait_for(f"{job}_1", "COMPLETED")
    cluster.wait_for(f"{job}_0", "COMPLETED")
    assert (folder / "started-0-0").read_text() == "\n"
    assert not (folder / "saved-0-0").exists()


def test_what_differs_from_site_to_site_is_read_by_elm_submit_and_by_the_job(
    cluster: SlurmCluster, folder: Path
) -> None:
    checkout = folder / "checkout"
    shutil.copytree(CLUSTER, checkout / "cluster")
    shutil.copytree(ROOT / "elm_dist", checkout / "elm_dist", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "cluster" / "site.env").write_text(
        "echo 'modules are loaded'\n"
        "export SBATCH_TIMELIMIT=17 SBATCH_BEGIN=now+1hour\n"
        "CONTAINER=(bash -c 'touch entered && exec \"$@\"' container)\n"
    )
    command = [sys.executable, "-m", "elm_dist", "submit", str(DEMO), "--nodes=1", "--gpus-per-node=2"]
    queued = cluster.run(*command, cwd=checkout).removeprefix("job ")
    assert cluster.job(queued)["TimeLimit"] == "00:17:00"
    cluster.run("scancel", queued)
    (folder / "end").touch()
    cluster.wait_for(submit(cluster, folder, scripts=checkout / "cluster"), "COMPLETED")
    assert (folder / "entered").exists()
    assert (folder / "started-0-1").exists()


def test_elm_submit_says_why_slurm_refuses(cluster: SlurmCluster) -> None:
    command = [sys.executable, "-m", "elm_dist", "submit", str(DEMO), "--nodes=1", "--gpus-per-node=2", "--time=9-0"]
    said = cluster.attempt(*command, cwd=ROOT)
    assert said.returncode == 2
    assert said.stderr.startswith("error: sbatch refused the job: sbatch: error: ")
    assert "time limit" in said.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_takes_the_script_as_it_is(cluster: SlurmCluster, script: Path) -> None:
    nodes = re.search(r"--nodes=(\d+)", script.read_text())
    assert nodes
    said = cluster.attempt("sbatch", "--test-only", str(script), cwd=ROOT)
    assert said.returncode == 0, said.stderr
    expected = "gpu0" if nodes[1] == "1" else f"gpu[0-{int(nodes[1]) - 1}]"
    assert f"using {64 * int(nodes[1])} processors on nodes {expected}" in said.stderr


def test_slurm_takes_what_elm_submit_renders(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = Job(ROOT / "configs" / "elm_7b.yaml", ("run.seed=1",), nodes=4, time="2-12", seeds="0-3,7%2")
    (tmp_path / "job.sh").write_text(render_script(job))
    said = cluster.attempt("sbatch", "--test-only", "job.sh", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "on nodes gpu[0-3]" in said.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    files = [str(path) for path in [*CLUSTER.glob("*.sh"), CLUSTER / "site.env.example"]]
    report = subprocess.run([shellcheck, "-x", "-S", "warning", *files], cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, report.stdout
