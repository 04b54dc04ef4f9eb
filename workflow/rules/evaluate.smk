# Tests a trained run again, by a protocol; needs its weights, which stay where it was trained.
rule evaluate:
    input:
        metrics=GRAPH.run_record,
        dataset=GRAPH.dataset,
    output:
        update(
            "{root}/runs/{experiment}-{digest}/seed{seed}/evaluation-{protocol}.json"
        ),
    log:
        "logs/{root}/{experiment}-{digest}/seed{seed}-{protocol}.log",
    wildcard_constraints:
        protocol="single-view(-recomputed)?",
    conda:
        "../envs/python.yaml"
    threads: JOBS.cpu_threads
    resources:
        gpu=JOBS.one_gpu,
        mem_mb=JOBS.test_memory,
        runtime=JOBS.test_minutes,
        cpus_per_task=JOBS.test_cpus,
        nodes=1,
    params:
        gpus=JOBS.one_gpu,
        scale=GRAPH.get_scale,
        device=GRAPH.device,
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
            metrics=GRAPH.run_record,
            dataset=GRAPH.dataset,
        output:
            update(
                collect(
                    "{{root}}/runs/{{experiment}}-{{digest}}/seed{{seed}}/evaluation-{protocol}.json",
                    protocol=PROTOCOLS,
                )
            ),
        log:
            "logs/{root}/{experiment}-{digest}/seed{seed}-evaluation.log",
        wildcard_constraints:
            experiment="|".join(EXPERIMENTS),
        conda:
            "../envs/python.yaml"
        threads: JOBS.cpu_threads
        resources:
            gpu=JOBS.one_gpu,
            mem_mb=JOBS.test_memory,
            runtime=JOBS.test_minutes,
            cpus_per_task=JOBS.test_cpus,
            nodes=1,
        params:
            gpus=JOBS.one_gpu,
            scale=GRAPH.get_scale,
            device=GRAPH.device,
            arithmetic=GRAPH.get_arithmetic,
            protocols=" ".join(PROTOCOLS),
        shell:
            "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
            "identity-mappings evaluate {wildcards.experiment} --scale {params.scale} "
            "--arithmetic {params.arithmetic} --digest {wildcards.digest} --seed {wildcards.seed} "
            "--results {wildcards.root} --device {params.device} --protocol {params.protocols} > {log} 2>&1"
