"""How good a detector is: VOC's and COCO's metrics, kinds of mistakes, speed, a report."""

from boxatlas.evaluation.metrics import METRICS, evaluate, interval
from boxatlas.evaluation.predict import predict

__all__ = ["METRICS", "evaluate", "interval", "predict"]
