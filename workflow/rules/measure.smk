# What every network of a scale costs: counted, nothing is trained.
rule cost:
    input:
        GRAPH.new_networks,
    output:
        networks="{root}/cost/networks.json",
        provenance="{root}/cost/provenance.json",
    log:
        "logs/{root}/cost.log",
    conda:
        "../envs/python.yaml"
    params:
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings cost --scale {params.scale} --record > {log} 2>&1"


# Norms of signal and gradient by unit, of all networks that the figures of a scale show: one job, which leaves the records
# that are there as they are.
for RESULTS, SCALE in GRAPH.roots.items():

    rule:
        name:
            f"signals_{SCALE}"
        input:
            dataset=GRAPH.signals_datasets,
            device=GRAPH.device_gate,
        output:
            update(
                [
                    path.replace(RESULTS, "{root}", 1)
                    for path in GRAPH.list_signals(SCALE)
                ]
            ),
        log:
            "logs/{root}/signals.log",
        wildcard_constraints:
            root=RESULTS,
        conda:
            "../envs/python.yaml"
        threads: JOBS.signals_threads
        resources:
            gpu=JOBS.one_gpu,
            mem_mb=JOBS.signals_memory,
            runtime=JOBS.signals_minutes,
            nodes=1,
        params:
            gpus=JOBS.one_gpu,
            scale=GRAPH.get_scale,
            device=GRAPH.device,
        shell:
            "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
            "identity-mappings signals --scale {params.scale} --device {params.device} > {log} 2>&1"


# Standard deviation of the layer responses of a trained network; under partial/ of an unfinished one, by its last
# checkpoint. Needs the weights, which stay where it was trained.
rule responses:
    input:
        metrics=GRAPH.run_record,
        dataset=GRAPH.dataset,
    output:
        csv=update(
            "{root}/runs/{experiment}-{digest}/seed{seed}/{partial}responses/responses.csv"
        ),
        provenance=update(
            "{root}/runs/{experiment}-{digest}/seed{seed}/{partial}responses/provenance.json"
        ),
    log:
        "logs/{root}/{experiment}-{digest}/seed{seed}-{partial}responses.log",
    wildcard_constraints:
        partial="(partial/)?",
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
        "identity-mappings responses {wildcards.experiment} --scale {params.scale} --digest {wildcards.digest} "
        "--seed {wildcards.seed} --results {wildcards.root} --device {params.device} > {log} 2>&1"
