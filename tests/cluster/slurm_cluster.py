"""A real SLURM of several nodes on one machine, for the tests of `cluster/`.

Each node has namespaces of its own for network, host name, processes and mounts, so that it has its own address,
`localhost`, /dev/shm and process numbers, and dies as a whole. Files are shared, as on a cluster. GPUs are names of
/dev/null. Nothing has a fixed name or port on the machine, and the kernel takes everything away with this process,
however it ends: two clusters do not meet, and none is left behind.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "unshare", "nsenter", "setpriv")
GPUS = 8

SLURM_CONF = """
ClusterName=test
SlurmctldHost=head(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CredType=cred/munge
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmdSpoolDir={base}/spool/%n
StateSaveLocation={base}/state
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SchedulerParameters=bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
EnforcePartLimits=ALL
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=gpu[0-{last}] CPUs=96 Boards=1 SocketsPerBoard=2 CoresPerSocket=48 ThreadsPerCore=1 \
RealMemory=1000000 Gres=gpu:{gpus} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=gpu Nodes=ALL Default=YES MaxTime=7-00:00:00 DefMemPerCPU=1024 State=UP GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
"""

HEAD = """
hostname head
mount --bind {base}/hosts /etc/hosts
ip link add br0 type bridge && ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up && ip link set lo up
munged --foreground --force --key-file={base}/munge.key --socket={base}/munge.socket --pid-file={base}/munged.pid \
--log-file={base}/munged.log --seed-file={base}/munge.seed &
until [ -S {base}/munge.socket ]; do sleep 0.05; done
slurmctld -D -f {base}/slurm.conf &
wait
"""

NODE = """
hostname {node}
mount --bind {base}/hosts /etc/hosts
mount -t tmpfs tmpfs /dev/shm
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip link set lo up
slurmd -D -f {base}/slurm.conf &
wait
"""


def why_not() -> str | None:
    """Return why there can be no cluster on this machine; None where there can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge iproute2)"
    if os.geteuid():
        return "a cluster of namespaces needs root"
    trial = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces can be made here: {trial.stderr.strip()}" if trial.returncode else None


class SlurmCluster:
    """`with SlurmCluster(folder, nodes=2) as cluster: job = cluster.submit("cluster/train_elm_l.sh")`."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.nodes = {f"gpu{number}": f"10.77.0.{number + 10}" for number in range(nodes)}
        self._machines: dict[str, subprocess.Popen[bytes]] = {}
        self._base = folder

    def __enter__(self) -> "SlurmCluster":
        try:
            self._configure()
            self._start("head", HEAD.format(base=self._base))
            wait_until(lambda: "UP" in self.attempt("scontrol", "ping").stdout or None, self._logs)
            for node in self.nodes:
                self.boot(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.nodes, "head"]:
            if name in self._machines:
                self.crash(name)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command on the head node and return what it printed; fail with what it said if it fails."""
        result = self.attempt(*command, cwd=cwd)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def attempt(self, *command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command on the head node, whatever becomes of it."""
        return subprocess.run(
            [*self._inside("head"), "env", f"--chdir={cwd or Path.cwd()}", *command],
            env=os.environ | {"SLURM_CONF": f"{self._base}/slurm.conf"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def run_on(self, node: str, *command: str) -> str:
        """Run a command on a node, beside its jobs, and return what it printed."""
        return subprocess.run([*self._inside(node), *command], capture_output=True, text=True, check=True).stdout

    def submit(self, *arguments: str, cwd: Path) -> str:
        """Submit a batch script and return the job's number."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd)

    def job(self, job: str) -> dict[str, str]:
        """Return what SLURM knows of a job (of an array: of its first task)."""
        shown = self.run("scontrol", "show", "job", "-o", job).splitlines()[0]
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def wait_for(self, job: str, *states: str, seconds: float = 240) -> dict[str, str]:
        """Wait until a job is in one of `states` and return what SLURM knows of it."""
        return wait_until(
            lambda: found if (found := self.job(job))["JobState"] in states else None,
            lambda: f"job {job} became none of {states}: {self.job(job)}\n{self._logs()}",
            seconds,
        )

    def wait_for_restart(self, job: str, restarts: int = 1, seconds: float = 120) -> None:
        """Wait until a job was requeued so often, and start it at once: SLURM would hold it back for two minutes."""

        def is_restarted() -> bool | None:
            found = self.job(job)
            if found["Reason"] == "BeginTime":
                time.sleep(2)  # what is started in the second of its requeue is killed: "Job credential revoked"
                self.attempt("scontrol", "update", f"JobId={job}", "StartTime=now")
            is_between = found["JobState"] in ("PENDING", "REQUEUED", "COMPLETING")
            return None if is_between or int(found["Restarts"]) < restarts else True

        wait_until(is_restarted, lambda: f"job {job} is not started again: {self.job(job)}\n{self._logs()}", seconds)

    def boot(self, node: str) -> None:
        """Start a node and wait until SLURM may use it."""
        self._start(node, NODE.format(base=self._base, node=node, address=self.nodes[node]))
        head, pid = f"--target={self._machines['head'].pid}", str(self._machines[node].pid)
        port = f"port-{node}"
        for arguments in (
            ["add", port, "type", "veth", "peer", "name", "eth0", "netns", pid],
            ["set", port, "master", "br0", "up"],
        ):
            subprocess.run(["nsenter", head, "--net", "ip", "link", *arguments], check=True)
        wait_until(lambda: "idle" in self.state(node) or None, lambda: f"{node} is {self.state(node)}: {self._logs()}")

    def crash(self, node: str) -> None:
        """Kill a node with all that runs on it."""
        machine = self._machines.pop(node)
        machine.kill()
        machine.wait()

    def state(self, node: str) -> str:
        """Return a node's state in SLURM's words; "" while the controller does not answer."""
        return self.attempt("sinfo", "--noheader", "--nodes", node, "--format", "%t").stdout.strip()

    def _configure(self) -> None:
        base = self._base
        for folder in ("state", "dev", *(f"spool/{node}" for node in self.nodes)):
            (base / folder).mkdir(parents=True)
        (base / "munge.key").write_bytes(os.urandom(128))
        (base / "munge.key").chmod(0o400)
        addresses = {"localhost": "127.0.0.1", "head": "10.77.0.1"} | self.nodes
        (base / "hosts").write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
        for number in range(GPUS):
            os.mknod(base / "dev" / f"nvidia{number}", 0o20666, os.makedev(1, 3))
        last = len(self.nodes) - 1
        (base / "slurm.conf").write_text(SLURM_CONF.format(base=base, last=last, gpus=GPUS))
        (base / "gres.conf").write_text(f"NodeName=gpu[0-{last}] Name=gpu File={base}/dev/nvidia[0-{GPUS - 1}]\n")
        (base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # it looks for one otherwise, and ends

    def _start(self, name: str, script: str) -> None:
        """Start `script` as the first process of a machine, which dies with the thread that calls this."""
        namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self._base / f"{name}.out").open("wb") as output:
            self._machines[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        own = os.readlink("/proc/self/ns/mnt")
        here = Path(f"/proc/{self._machines[name].pid}/ns/mnt")
        wait_until(lambda: os.readlink(here) != own or None, lambda: f"{name} does not start: {self._logs()}")

    def _inside(self, name: str) -> list[str]:
        pid = self._machines[name].pid
        return ["nsenter", f"--target={pid}", "--net", "--uts", "--mount", f"--pid=/proc/{pid}/ns/pid_for_children"]

    def _logs(self) -> str:
        """Return the ends of all logs."""
        files = [*self._base.glob("*.log"), *self._base.glob("*.out")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(files))


def wait_until(look: Callable[[], Found | None], complaint: Callable[[], str], seconds: float = 30) -> Found:
    """Return what `look` finds, asking five times a second; fail with `complaint` when it finds nothing for so long."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise AssertionError(complaint())
        time.sleep(0.2)
    return found
