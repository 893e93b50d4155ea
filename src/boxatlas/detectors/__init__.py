"""One file per method. Importing this package registers every model."""

from boxatlas.detectors import cascade_rcnn as cascade_rcnn
from boxatlas.detectors import dsod as dsod
from boxatlas.detectors import dssd as dssd
from boxatlas.detectors import fast_rcnn as fast_rcnn
from boxatlas.detectors import faster_rcnn as faster_rcnn
from boxatlas.detectors import fpn as fpn
from boxatlas.detectors import fssd as fssd
from boxatlas.detectors import m2det as m2det
from boxatlas.detectors import mask_rcnn as mask_rcnn
from boxatlas.detectors import rcnn as rcnn
from boxatlas.detectors import refinedet as refinedet
from boxatlas.detectors import retinanet as retinanet
from boxatlas.detectors import rfbnet as rfbnet
from boxatlas.detectors import rfcn as rfcn
from boxatlas.detectors import ssd as ssd
from boxatlas.detectors import yolo9000 as yolo9000
from boxatlas.detectors import yolov1 as yolov1
from boxatlas.detectors import yolov2 as yolov2
from boxatlas.detectors import yolov3 as yolov3
