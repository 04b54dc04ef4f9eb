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
        gpu=gpus_of_test,
    params:
        gpus=gpus_of_test,
        scale=scale_of,
        device=device_name,
    shell:
        "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
        "identity-mappings evaluate {wildcards.experiment} --scale {params.scale} --digest {wildcards.digest} "
        "--seed {wildcards.seed} --results {wildcards.root} --device {params.device} "
        "--protocol {wildcards.protocol} > {log} 2>&1"


# On ImageNet by all protocols at once for which tables ask, each of which has a record of its own.
for PROTOCOLS, EXPERIMENTS in GRAPH.protocol_sets().items():

    rule:
        name:
            f"evaluate_{'_'.join(PROTOCOLS)}".replace("-", "_")
        input:
            metrics=ancient("{root}/runs/{experiment}-{digest}/seed{seed}/metrics.json"),
            dataset=dataset_of_run,
        output:
            [
                "{root}/runs/{experiment}-{digest}/seed{seed}/evaluation-%s.json"
                % protocol
                for protocol in PROTOCOLS
            ],
        log:
            "logs/{root}/{experiment}-{digest}/seed{seed}-evaluation.log",
        wildcard_constraints:
            experiment="|".join(EXPERIMENTS),
        conda:
            "../envs/python.yaml"
        threads: cpu_threads
        resources:
            gpu=gpus_of_test,
        params:
            gpus=gpus_of_test,
            scale=scale_of,
            device=device_name,
            arithmetic=arithmetic_of_run,
            protocols=" ".join(PROTOCOLS),
        shell:
            "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
            "identity-mappings evaluate {wildcards.experiment} --scale {params.scale} "
            "--arithmetic {params.arithmetic} --digest {wildcards.digest} --seed {wildcards.seed} "
            "--results {wildcards.root} --device {params.device} --protocol {params.protocols} > {log} 2>&1"
