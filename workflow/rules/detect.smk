# Detections: Faster R-CNN, which begins from the weights of a run on ImageNet. So the chain from ImageNet to COCO is one
# graph; the weights lie with the checkpoints of that run, and its record says which they are.
use rule train as detect with:
    input:
        backbone=GRAPH.backbone_record,
        dataset=GRAPH.dataset,
        device=GRAPH.device_gate,
    wildcard_constraints:
        experiment="|".join(GRAPH.detections),


ruleorder: detect > train
