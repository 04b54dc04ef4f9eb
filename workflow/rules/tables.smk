# Appears when parameters, records or the rendering code are no longer those that a report was made of. Content
# decides, not times: a clone or an experiment of DVC has no times that mean anything.
rule changed:
    output:
        temp(touch("{root}/.changed-{report}-{fingerprint}")),
    log:
        "logs/{root}/changed-{report}-{fingerprint}.log",
    wildcard_constraints:
        report="tables|figures",
        fingerprint="[0-9a-f]{16}",
    conda:
        "../envs/python.yaml"
    shell:
        "echo 'a report is made again' > {log}"


rule make_tables:
    input:
        records=records,
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
