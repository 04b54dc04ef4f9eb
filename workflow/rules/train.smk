# Says once, before any run, whether there is a GPU: not each of the runs by itself.
rule device:
    output:
        temp(touch("{root}/.device-gpu")),
    log:
        "logs/{root}/device.log",
    conda:
        "../envs/python.yaml"
    resources:
        gpu=1,
    params:
        experiment=first_experiment,
        scale=scale_of,
    shell:
        "identity-mappings device {params.experiment} --scale {params.scale} > {log} 2>&1"


# One run, trained and tested in one process, from its last checkpoint where there is one. No file is an input but
# the dataset's stamp: the digest in the path stands for everything that the numbers depend on.
rule train:
    input:
        dataset=dataset_of_run,
        device=device_gate,
    output:
        metrics="{root}/runs/{experiment}-{digest}/seed{seed}/metrics.json",
        curve="{root}/runs/{experiment}-{digest}/seed{seed}/curve.csv",
        provenance="{root}/runs/{experiment}-{digest}/seed{seed}/provenance.json",
    log:
        "logs/{root}/{experiment}-{digest}/seed{seed}.log",
    benchmark:
        "logs/{root}/{experiment}-{digest}/seed{seed}.benchmark.tsv"
    conda:
        "../envs/python.yaml"
    threads: threads_of_training
    resources:
        gpu=gpus,
    params:
        gpus=gpus,
        scale=scale_of,
        device=device_name,
        arithmetic=arithmetic_of_run,
        launcher=launcher,
    shell:
        "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
        "{params.launcher}identity-mappings train {wildcards.experiment} --scale {params.scale} --arithmetic {params.arithmetic} "
        "--digest {wildcards.digest} --seed {wildcards.seed} --results {wildcards.root} --device {params.device} --log {log} > {log} 2>&1"


# On a GPU the missing runs of an experiment share a job, which trains several at once: none of these narrow networks
# fills a GPU. Each has its own folder, and is what it would be alone.
for GROUP in GRAPH.together(sys.argv[1:]):
    workflow.ruleorder(GROUP.rule, "train")

    rule:
        name:
            GROUP.rule
        input:
            dataset=dataset_of(GROUP),
            device=f"{GROUP.root}/.device-gpu",
        output:
            metrics=GROUP.files("metrics.json"),
            curve=GROUP.files("curve.csv"),
            provenance=GROUP.files("provenance.json"),
        log:
            f"logs/{GROUP.root}/{GROUP.experiment.folder}/{GROUP.rule}.log",
        benchmark:
            f"logs/{GROUP.root}/{GROUP.experiment.folder}/{GROUP.rule}.benchmark.tsv"
        conda:
            "../envs/python.yaml"
        threads: GROUP.experiment.parameters["recipe"]["cpu_threads"]
        resources:
            gpu=GROUP.experiment.gpus,
        params:
            of=GROUP,
            seeds=" ".join(map(str, GROUP.folders)),
            scale=SCALE,
            arithmetic=GROUP.experiment.parameters["recipe"]["arithmetic"],
        shell:
            "identity-mappings lease --gpus {params.of.experiment.gpus} --granted {resources.gpu} -- "
            "identity-mappings train {params.of.experiment.name} --scale {params.scale} "
            "--arithmetic {params.arithmetic} --digest {params.of.experiment.digest} --seed {params.seeds} "
            "--results {params.of.root} --device gpu --log {log} > {log} 2>&1"
