#!/usr/bin/env python3
"""The MLflow server's program on both engines: `trackbed-mlflow` in the image. Its commands: trackbed_mlflow/cli.py."""

import sys

from trackbed_mlflow import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
