# The page of tables and figures, to open in a browser: one file. It comes after these, and is made again for the same
# reasons; their times mean nothing.
rule make_page:
    input:
        records=records,
        measured=measured,
        cost=cost_record,
        tables=ancient("{root}/tables.json"),
        figures=ancient("{root}/figures/figures.json"),
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
