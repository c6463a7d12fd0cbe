"""What the notebook's MLflow loads as plugins (the entry points beside this package), in kernels and scripts alike."""
