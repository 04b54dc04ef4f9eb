"""A Slurm of a test's own: munge, a controller and two nodes, all on this machine, in a folder of their own.

It reads no file of a Slurm that the machine has, and ends only processes that it started.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("node0", "node1")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
KillWait=10
MinJobAge=600
SlurmdTimeout=60
SchedulerParameters=sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurm(Exception):
    """Why there is no Slurm here."""


class Slurm:
    """A running Slurm; use it as a context.

    Args:
        folder: of its own, with a short path (a socket lies in it).
        cpus: that each node claims, whatever the machine has.

    Raises:
        NoSlurm: on entering: its programs are missing, or it did not come up.
    """

    def __init__(self, folder: Path, cpus: int = 4):
        self.folder, self.cpus = folder, cpus
        self.started: list[subprocess.Popen] = []

    @property
    def environment(self) -> dict[str, str]:
        """For its commands; without what an allocation of another Slurm, in which the test may run, has set."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        path = os.pathsep.join((str(self.folder / "bin"), os.environ["PATH"], "/usr/sbin", "/sbin"))
        return {**own, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> "Slurm":
        missing = [name for name in PROGRAMS if not shutil.which(name, path=self.environment["PATH"])]
        if missing:
            raise NoSlurm(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._write_files()
            self._start_all()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, *command: str, timeout: float = 20) -> str:
        """The output of one of Slurm's commands; "" where it fails or takes too long."""
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def stop(self) -> None:
        """End all jobs and every process that was started here."""
        if (self.folder / "slurm.conf").exists():
            self.call("scancel", "--signal=KILL", "--user", str(os.getuid()))
            deadline = time.monotonic() + 20
            while self.call("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.5)
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.started.clear()

    def _write_files(self) -> None:
        user = os.environ.get("USER") or "root"
        host, ports = socket.gethostname().split(".")[0], _free_ports(1 + len(NODES))
        for name in ("bin", "state", "devices", "munge", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        if os.getuid() == 0:
            user = "root"
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} RealMemory=64000 "
            f"Gres=gpu:1"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        text = CONFIGURATION.format(host=host, ports=ports, folder=self.folder, user=user, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(text)
        # Snakemake's plugin calls srun without SLURM_CONF, and so would ask the machine's own Slurm.
        srun = shutil.which("srun", path=self.environment["PATH"])
        wrapper = self.folder / "bin" / "srun"
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {srun} "$@"\n')
        wrapper.chmod(0o755)
        lines = []
        for node in NODES:  # a stand-in: a device file that can be read
            device = self.folder / "devices" / node
            try:
                os.mknod(device, 0o20666, os.makedev(1, 3))
            except PermissionError as error:
                raise NoSlurm(f"no stand-in for a GPU can be made here: {error}") from None
            lines.append(f"NodeName={node} Name=gpu File={device}\n")
        (self.folder / "gres.conf").write_text("".join(lines))

    def _start_all(self) -> None:
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", *words)
        self._wait(lambda: (munge / "socket").exists(), "munged")
        self._start("slurmctld", "-D", "-c")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        idle = [f"{node} idle" for node in NODES]
        self._wait(lambda: self.call("sinfo", "-h", "-N", "-o", "%N %t").split("\n")[: len(NODES)] == idle, "the nodes")

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}-{len(self.started)}.output").open("w")
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        self.started.append(subprocess.Popen(command, env=self.environment, **options))

    def _wait(self, ready, name: str, patience: float = 60) -> None:
        deadline = time.monotonic() + patience
        while not ready():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.started):
                raise NoSlurm(f"{name} did not come up: {self.logs()}")
            time.sleep(0.5)

    def logs(self) -> str:
        """The last lines of every log."""
        found = [*self.folder.glob("*.output"), *self.folder.glob("*.log"), *self.folder.glob("munge/log")]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-600:]}" for path in found)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
