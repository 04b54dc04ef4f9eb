# Detections: Faster R-CNN, which begins from the weights of a run on ImageNet. So the chain from ImageNet to COCO is one
# graph; the weights lie with the checkpoints of that run, and its record says which they are.
ruleorder: detect > train


rule detect:
    input:
        backbone=lambda wildcards: [
            ancient(path)
            for path in GRAPH.backbone_of_run(wildcards.experiment, wildcards.root)
        ],
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
    wildcard_constraints:
        experiment="|".join(GRAPH.detections),
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
