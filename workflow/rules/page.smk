# The page of tables and figures, to open in a browser: one file.
rule make_page:
    input:
        records=records,
        tables="{root}/tables.json",
        figures="{root}/figures/figures.json",
        changed=changed_page,
    output:
        page=report("{root}/report.html", caption="../report/page.rst", category="Page"),
        origin="{root}/report.json",
    log:
        "logs/{root}/page.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=scale_of,
    shell:
        "identity-mappings report --scale {params.scale} > {log} 2>&1"
