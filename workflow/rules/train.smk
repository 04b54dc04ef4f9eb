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
    threads: cpu_threads
    resources:
        gpu=gpus,
    params:
        gpus=gpus,
        scale=scale_of,
        device=device_name,
    shell:
        "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
        "identity-mappings train {wildcards.experiment} --scale {params.scale} --digest {wildcards.digest} "
        "--seed {wildcards.seed} --results {wildcards.root} --device {params.device} --log {log} > {log} 2>&1"
