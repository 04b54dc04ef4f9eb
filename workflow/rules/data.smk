# Gets and checks a dataset of data.dvc; of ImageNet, whose archives nobody can fetch for you, makes the shards. The stamp lies beside the data; its name carries DVC's hash.
rule dataset:
    output:
        touch("data/.verified/{dataset}-{md5}"),
    log:
        "logs/data/{dataset}-{md5}.log",
    wildcard_constraints:
        md5="[0-9a-f]{32}.dir",
    conda:
        "../envs/python.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=720,
        nodes=1,
    params:
        first="",
    shell:
        "({params.first}identity-mappings data prepare {wildcards.dataset}) > {log} 2>&1"


# The small sets of the demo have no source: a script makes their archives.
use rule dataset as small_dataset with:
    wildcard_constraints:
        dataset="(imagenet|voc|coco)-small",
        md5="[0-9a-f]{32}.dir",
    params:
        first=f"python '{ROOT}/workflow/scripts/make_small_data.py' {{dataset}} && ",


ruleorder: small_dataset > dataset
