# Every number of the tables and figures of both papers, from params/ and data.dvc:
#   snakemake --cores 8 --resources gpu=4
# Targets: all (default), demo, tables, figures, page, data. --config scale=NAME takes another scale of params/scales,
# --config device=cpu trains on the CPU.
from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


wildcard_constraints:
    root="|".join(ROOTS),
    experiment="[a-z0-9]+(-[a-z0-9]+)*",
    digest="[0-9a-f]{12}",
    seed="[0-9]+",
    dataset="[a-z0-9]+(-[a-z0-9]+)*",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
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
    cost,


rule all:
    default_target: True
    input:
        runs=runs(SCALE),
        evaluations=evaluations(SCALE),
        tables=tables_of(SCALE),
        figures=figures_of(SCALE),
        page=page_of(SCALE),


rule demo:
    input:
        runs=runs("demo"),
        evaluations=evaluations("demo"),
        tables=tables_of("demo"),
        figures=figures_of("demo"),
        page=page_of("demo"),


rule tables:
    input:
        tables_of(SCALE),


rule figures:
    input:
        figures_of(SCALE),


rule page:
    input:
        page_of(SCALE),


rule data:
    input:
        datasets(SCALE),


# A run that crashed does not keep the others from being shown.
onerror:
    scale = "demo" if "demo" in asked() else SCALE
    shell(
        "identity-mappings tables --scale {scale} && identity-mappings figures --scale {scale} "
        "&& identity-mappings report --scale {scale}"
    )
