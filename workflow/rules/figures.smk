# The figures, likewise.
rule make_figures:
    input:
        GRAPH.report_sources,
    output:
        svg=report(
            collect("{{root}}/figures/{figure}.svg", figure=GRAPH.figure_names),
            caption="../report/figures.rst",
            category="Figures",
        ),
        png=collect("{{root}}/figures/{figure}.png", figure=GRAPH.figure_names),
        csv=collect("{{root}}/figures/{figure}.csv", figure=GRAPH.figure_names),
    log:
        "logs/{root}/figures.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings figures --scale {params.scale} > {log} 2>&1"
