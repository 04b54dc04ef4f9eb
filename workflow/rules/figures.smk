# The figures, likewise.
rule make_figures:
    input:
        records=records,
        measured=measured,
        changed=changed_figures,
    output:
        svg=report(
            collect("{{root}}/figures/{figure}.svg", figure=FIGURES),
            caption="../report/figures.rst",
            category="Figures",
        ),
        png=collect("{{root}}/figures/{figure}.png", figure=FIGURES),
        csv=collect("{{root}}/figures/{figure}.csv", figure=FIGURES),
        origin="{root}/figures/figures.json",
    log:
        "logs/{root}/figures.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=scale_of,
    shell:
        "identity-mappings figures --scale {params.scale} > {log} 2>&1"
