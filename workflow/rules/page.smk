# The page of tables and figures, to open in a browser: one file.
rule make_page:
    input:
        GRAPH.page_sources,
    output:
        report("{root}/report.html", caption="../report/page.rst", category="Page"),
    log:
        "logs/{root}/page.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings report --scale {params.scale} > {log} 2>&1"
