"""One file per method. Importing this package registers every model."""

from boxatlas.detectors import ssd as ssd
