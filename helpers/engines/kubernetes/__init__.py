"""The kubernetes engine: the services as objects of a cluster, applied by kubectl."""
