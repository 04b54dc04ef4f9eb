# What the rules share: the parameters, read and checked once, and the paths that follow from them.
import sys
from pathlib import Path

ROOT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from identity_mappings.errors import UserError
from identity_mappings.graph import Graph

# The jobs' commands are those of this checkout and, unless Snakemake deploys another (--software-deployment-method
# conda), of the environment that runs this file.
BIN = (
    ""
    if workflow.deployment_settings.deployment_method
    else f"{Path(sys.executable).parent}:"
)
shell.prefix(f'export PATH="{BIN}$PATH" PYTHONPATH="{ROOT / "src"}"; ')

try:
    GRAPH = Graph(ROOT, config)
except UserError as error:
    sys.exit(f"identity-mappings: {error}")

SCALE = GRAPH.scale
ROOTS = GRAPH.roots
FIGURES = GRAPH.figure_names


def asked():
    """The targets that this call of Snakemake names."""
    return set(workflow.dag_settings.targets)


def runs(scale):
    return GRAPH.runs(scale)


def evaluations(scale):
    return GRAPH.evaluations(scale)


def tables_of(scale):
    return GRAPH.tables(scale)


def page_of(scale):
    return GRAPH.page(scale)


def figures_of(scale):
    return GRAPH.figures(scale)


def datasets(scale):
    return GRAPH.datasets(scale)


def dataset_of_run(wildcards):
    return [
        ancient(path)
        for path in GRAPH.dataset_of_run(wildcards.experiment, wildcards.root)
    ]


def dataset_of(group):
    stamps = GRAPH.dataset_of_run(group.experiment.name, group.root)
    return [ancient(path) for path in stamps]


def arithmetic_of_run(wildcards):
    return GRAPH.arithmetic_of_run(
        wildcards.experiment, wildcards.digest, wildcards.root
    )


def device_gate(wildcards):
    return GRAPH.device_gate(wildcards.root)


def records(wildcards):
    """What a report is made of: the records that are there, and those that this very call makes."""
    there, coming = GRAPH.records(wildcards.root, asked())
    return [ancient(path) for path in there] + coming


def cost_record(wildcards):
    there, coming = GRAPH.counted(wildcards.root)
    return [ancient(path) for path in there] + coming


def measured(wildcards):
    """Signals and layer responses, in the same way as `records`."""
    there, coming = GRAPH.measured(wildcards.root, asked())
    return [ancient(path) for path in there] + coming


def changed_cost(wildcards):
    return GRAPH.changed_cost(wildcards.root)


def changed_signals(wildcards):
    return GRAPH.changed_signals(wildcards.root)


def datasets_of_signals(wildcards):
    return [ancient(path) for path in GRAPH.datasets_of_signals(wildcards.root)]


def gpus_of_signals(wildcards):
    return GRAPH.signal_resources(wildcards.root)[0]


def threads_of_signals(wildcards):
    return GRAPH.signal_resources(wildcards.root)[1]


def scale_of(wildcards):
    return GRAPH.roots[wildcards.root]


def device_name(wildcards):
    return GRAPH.device(wildcards.root)


def gpus(wildcards):
    return GRAPH.gpus(wildcards.experiment, wildcards.root)


def gpus_of_test(wildcards):
    return GRAPH.gpus_of_test(wildcards.root)


def launcher(wildcards):
    return GRAPH.launcher(wildcards.experiment, wildcards.root)


def threads_of_training(wildcards):
    return GRAPH.threads(wildcards.experiment, wildcards.root)


def cpu_threads(wildcards):
    return GRAPH.cpu_threads(wildcards.experiment, wildcards.root)


def first_experiment(wildcards):
    return GRAPH.first_experiment(wildcards.root)


def changed_tables(wildcards):
    return GRAPH.changed(wildcards.root, "tables.json")


def changed_figures(wildcards):
    return GRAPH.changed(wildcards.root, "figures/figures.json")


def changed_page(wildcards):
    return GRAPH.changed(wildcards.root, "report.json")
