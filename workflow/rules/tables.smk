# The tables of a scale, from the records that are there: nothing is trained for them.
rule make_tables:
    input:
        GRAPH.incomplete_cost,
        GRAPH.report_sources,
    output:
        tables=report(
            "{root}/tables.md",
            caption="../report/tables.rst",
            category="Tables",
        ),
        paper=report(
            "{root}/paper.md",
            caption="../report/paper.rst",
            category="Tables",
        ),
        comparison=report(
            "{root}/comparison.md",
            caption="../report/comparison.rst",
            category="Tables",
        ),
        findings=report(
            "{root}/README.md",
            caption="../report/findings.rst",
            category="Tables",
        ),
        cells="{root}/tables.json",
        metrics="{root}/metrics.json",
    log:
        "logs/{root}/tables.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings tables --scale {params.scale} > {log} 2>&1"


# Tables and figures once all missing records of a scale are made, for `all` and `demo`.
rule update_reports:
    input:
        GRAPH.missing_records,
    output:
        touch("logs/{root}/reports-updated"),
    log:
        "logs/{root}/reports.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "(identity-mappings tables --scale {params.scale} && "
        "identity-mappings figures --scale {params.scale} && "
        "identity-mappings report --scale {params.scale}) > {log} 2>&1"
