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
        mem_mb=4000,
        runtime=15,
        nodes=1,
    params:
        experiment=GRAPH.first_experiment,
        scale=GRAPH.get_scale,
    shell:
        "identity-mappings device {params.experiment} --scale {params.scale} > {log} 2>&1"


RECORD = ("metrics.json", "curve.csv", "provenance.json")


# One run, trained and tested in one process, from its last checkpoint where there is one. Its inputs are the stamps of
# dataset and device that are missing: the digest in the path stands for everything that the numbers depend on. A finished
# record is never removed (`update`), nor trained again, also where Snakemake is told to force the rule.
rule train:
    input:
        dataset=GRAPH.dataset,
        device=GRAPH.device_gate,
    output:
        update(
            collect(
                "{{root}}/runs/{{experiment}}-{{digest}}/seed{{seed}}/{file}",
                file=RECORD,
            )
        ),
    log:
        "logs/{root}/{experiment}-{digest}/seed{seed}.log",
    benchmark:
        "logs/{root}/{experiment}-{digest}/seed{seed}.benchmark.tsv"
    priority: JOBS.priority
    conda:
        "../envs/python.yaml"
    threads: JOBS.training_threads
    resources:
        gpu=JOBS.gpus,
        mem_mb=JOBS.training_memory,
        runtime=JOBS.training_minutes,
        cpus_per_task=JOBS.training_cpus,
        nodes=JOBS.nodes,
        tasks=JOBS.tasks,
        tasks_per_gpu=JOBS.tasks_per_gpu,
        gres=JOBS.gres,
        mpi=JOBS.mpi,
    params:
        on_each_node=JOBS.on_each_node,
        gpus=JOBS.gpus_per_node,
        granted=JOBS.granted_to_node,
        scale=GRAPH.get_scale,
        device=GRAPH.device,
        arithmetic=GRAPH.get_arithmetic,
        launcher=JOBS.launcher,
    shell:
        "{params.on_each_node}identity-mappings lease --gpus {params.gpus} --granted {params.granted} -- "
        "{params.launcher}identity-mappings train {wildcards.experiment} --scale {params.scale} --arithmetic {params.arithmetic} "
        "--digest {wildcards.digest} --seed {wildcards.seed} --results {wildcards.root} --device {params.device} --log {log} > {log} 2>&1"


# On a GPU all seeds of an experiment share a job, which trains them at once: none of these narrow networks fills a GPU.
# Each has its own folder, and is what it would be alone. Seeds that have a record are left as they are. There is a rule
# for each set of seeds that params/ and --config runs_per_gpu give; with runs_per_gpu=1 there is none.
for (RESULTS, SEEDS), EXPERIMENTS in GRAPH.seed_groups().items():
    workflow.ruleorder(
        f"train_{GRAPH.roots[RESULTS]}_seeds_{SEEDS[0]}_to_{SEEDS[-1]}", "train"
    )

    rule:
        name:
            f"train_{GRAPH.roots[RESULTS]}_seeds_{SEEDS[0]}_to_{SEEDS[-1]}"
        input:
            dataset=GRAPH.dataset,
            device=GRAPH.device_gate,
        output:
            update(
                collect(
                    "{{root}}/runs/{{experiment}}-{{digest}}/seed{seed}/{file}",
                    seed=SEEDS,
                    file=RECORD,
                )
            ),
        log:
            f"logs/{{root}}/{{experiment}}-{{digest}}/seeds{SEEDS[0]}-{SEEDS[-1]}.log",
        benchmark:
            f"logs/{{root}}/{{experiment}}-{{digest}}/seeds{SEEDS[0]}-{SEEDS[-1]}.benchmark.tsv"
        wildcard_constraints:
            root=RESULTS,
            experiment="|".join(EXPERIMENTS),
        priority: JOBS.priority_from(SEEDS[0])
        conda:
            "../envs/python.yaml"
        threads: JOBS.training_threads
        resources:
            gpu=JOBS.gpus,
            mem_mb=JOBS.training_memory,
            runtime=JOBS.training_minutes,
            cpus_per_task=JOBS.training_cpus,
            nodes=1,
        params:
            gpus=JOBS.gpus,
            seeds=" ".join(map(str, SEEDS)),
            scale=GRAPH.get_scale,
            arithmetic=GRAPH.get_arithmetic,
        shell:
            "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
            "identity-mappings train {wildcards.experiment} --scale {params.scale} "
            "--arithmetic {params.arithmetic} --digest {wildcards.digest} --seed {params.seeds} "
            "--results {wildcards.root} --device gpu --log {log} > {log} 2>&1"
