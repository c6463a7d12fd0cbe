"""GPUs: the words of ``--gpu``, what a machine has, what a word means there, and the build of PyTorch for it."""
