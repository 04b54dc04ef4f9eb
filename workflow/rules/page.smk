# The page of tables and figures, to open in a browser: one file. It comes after these, whose times mean nothing.
rule make_page:
    input:
        tables=ancient("{root}/tables.json"),
        figures=ancient("{root}/figures/figures.json"),
        changed=GRAPH.changes.page,
    output:
        page=report("{root}/report.html", caption="../report/page.rst", category="Page"),
        origin="{root}/report.json",
    log:
        "logs/{root}/page.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings report --scale {params.scale} > {log} 2>&1"
