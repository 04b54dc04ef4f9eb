# The tables of a scale, from the records that are there. `changed` appears when these, the parameters or the rendering
# code are no longer those that the tables were made of.
rule make_tables:
    input:
        records=records,
        measured=measured,
        cost=cost_record,
        changed=changed_tables,
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
        scale=scale_of,
    shell:
        "identity-mappings tables --scale {params.scale} > {log} 2>&1"
