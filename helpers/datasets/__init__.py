"""Data sets beside each other in one volume or folder, which the notebook reads."""
