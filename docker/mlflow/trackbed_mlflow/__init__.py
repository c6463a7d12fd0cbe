"""MLflow's tracking server as Trackbed runs it, in the image and on the embedded engine alike."""

import os.path

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "start.py")
