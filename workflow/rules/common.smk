# What the rules share: the parameters, read and checked once. Inputs and parameters are methods
# of GRAPH, resources and what starts a job those of JOBS.
import sys
from pathlib import Path

ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from identity_mappings.errors import UserError
from identity_mappings.graph import Graph
from identity_mappings.jobs import Jobs, count_free_memory
from identity_mappings.records.machine import count_cores
from identity_mappings.reporting.store import describe_outdated_records
from snakemake.utils import available_cpu_count

# The jobs' commands are those of this checkout and, unless Snakemake deploys another (--software-deployment-method
# conda), of the environment that runs this file.
BIN = (
    ""
    if workflow.deployment_settings.deployment_method
    else f"{Path(sys.executable).parent}:"
)
try:
    GRAPH = Graph(Path(), config)
    JOBS = Jobs(GRAPH)
except UserError as error:
    sys.exit(f"identity-mappings: {error}")
if workflow.is_main_process and (
    outdated := describe_outdated_records(GRAPH.project, GRAPH.scale)
):
    print(outdated, file=sys.stderr)
EAGER = 'IDENTITY_MAPPINGS_EAGER="--config eager=true"' if GRAPH.eager else ""
shell.prefix(f'export PATH="{BIN}$PATH" PYTHONPATH="{ROOT / "src"}" {EAGER}; ')

# A job on this machine counts with the memory that it needs, whatever the profile; --resources mem_mb=N gives another
# limit. `--cores all` are the CPUs of the host, also in a container that may use fewer.
HERE = workflow.is_main_process and workflow.resource_settings.nodes is None
if HERE:
    if "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", count_free_memory())
    if workflow.cores == available_cpu_count():
        workflow.register_resource("_cores", count_cores())


def check_machine():
    """End with one message, before the first job, where this machine cannot do them."""
    if not HERE:
        return
    trainings = [
        job.wildcards
        for job in workflow.dag.needrun_jobs()
        if job.rule.name.startswith(("train", "detect"))
    ]
    try:
        JOBS.check_machine(trainings, workflow.global_resources["mem_mb"].value)
    except UserError as error:
        sys.exit(f"identity-mappings: {error}")
