"""One file per method. Importing this package registers every model."""

from boxatlas.detectors import ssd as ssd
from boxatlas.detectors import yolo9000 as yolo9000
from boxatlas.detectors import yolov1 as yolov1
from boxatlas.detectors import yolov2 as yolov2
from boxatlas.detectors import yolov3 as yolov3
