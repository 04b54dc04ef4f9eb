# What the rules share: the parameters, read and checked once. Inputs and parameters are methods
# of GRAPH, resources and what starts a job those of JOBS.
import sys
from pathlib import Path

ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from identity_mappings.errors import UserError
from identity_mappings.graph import Graph
from identity_mappings.jobs import Jobs
from identity_mappings.reporting.store import describe_outdated_records

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
