# Every number of the tables and figures of both papers, from params/ and data.dvc:
#   snakemake --cores 8 --resources gpu=4
# Targets: all (default), demo, tables, figures, page, data. --config scale=NAME takes another scale of params/scales,
# --config device=cpu trains on the CPU.
from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


wildcard_constraints:
    root="|".join(GRAPH.roots),
    experiment="[a-z0-9]+(-[a-z0-9]+)*",
    digest="[0-9a-f]{12}",
    seed="[0-9]+",
    dataset="[a-z0-9]+(-[a-z0-9]+)*",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/detect.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/page.smk"


localrules:
    all,
    demo,
    tables,
    figures,
    data,
    make_tables,
    make_figures,
    make_page,
    page,
    update_reports,
    cost,


rule all:
    default_target: True
    input:
        GRAPH.everything(GRAPH.scale),


rule demo:
    input:
        GRAPH.everything("demo"),


rule tables:
    input:
        GRAPH.tables(GRAPH.scale),


rule figures:
    input:
        GRAPH.figures(GRAPH.scale),


rule page:
    input:
        GRAPH.page(GRAPH.scale),


rule data:
    input:
        GRAPH.datasets(GRAPH.scale),


onstart:
    check_machine()


# A run that crashed does not keep the others from being shown.
onerror:
    for results, scale in GRAPH.roots.items():
        if Path(results, "runs").is_dir() and scale in (GRAPH.scale, "demo"):
            shell(
                "identity-mappings tables --scale {scale} && identity-mappings figures --scale {scale} "
                "&& identity-mappings report --scale {scale}"
            )
