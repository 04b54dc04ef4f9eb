# Detections: Faster R-CNN, which begins from the weights of a run on ImageNet. So the chain from ImageNet to COCO is one
# graph; the weights lie with the checkpoints of that run, and its record says which they are.
ruleorder: detect > train


rule detect:
    input:
        backbone=GRAPH.backbone_of_run,
        dataset=GRAPH.dataset_of_run,
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
    wildcard_constraints:
        experiment="|".join(GRAPH.detections),
    conda:
        "../envs/python.yaml"
    threads: JOBS.threads_of_training
    resources:
        gpu=JOBS.gpus,
        mem_mb=32000,
        runtime=GRAPH.time_limit,
        cpus_per_task=JOBS.threads_of_training,
    params:
        gpus=JOBS.gpus,
        scale=GRAPH.scale_of,
        device=GRAPH.device,
        arithmetic=GRAPH.arithmetic_of_run,
        launcher=JOBS.launcher,
    shell:
        "identity-mappings lease --gpus {params.gpus} --granted {resources.gpu} -- "
        "{params.launcher}identity-mappings train {wildcards.experiment} --scale {params.scale} --arithmetic {params.arithmetic} "
        "--digest {wildcards.digest} --seed {wildcards.seed} --results {wildcards.root} --device {params.device} --log {log} > {log} 2>&1"
