# Tests a trained run again, by a protocol; needs its weights, which stay where it was trained.
rule evaluate:
    input:
        metrics=ancient("{root}/runs/{experiment}-{digest}/seed{seed}/metrics.json"),
        dataset=dataset_of_run,
    output:
        "{root}/runs/{experiment}-{digest}/seed{seed}/evaluation-{protocol}.json",
    log:
        "logs/{root}/{experiment}-{digest}/seed{seed}-{protocol}.log",
    wildcard_constraints:
        protocol="single-view(-recomputed)?",
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
        "identity-mappings evaluate {wildcards.experiment} --scale {params.scale} --digest {wildcards.digest} "
        "--seed {wildcards.seed} --results {wildcards.root} --device {params.device} "
        "--protocol {wildcards.protocol} > {log} 2>&1"
