"""Searches and lists have processes of their own beside the workers, started when they are needed.

Threads of one process share Python's lock: a log_metric beside four searches waits for it at each of its statements.

A server that searches little has none of these processes. A worker that gets a second search while it works on one
asks gunicorn's first process for one (SIGTTIN), and answers by itself until it is there. The new process is forked as
a worker is, and ends when nobody has asked it for a while. Whatever goes wrong with it, workers search by themselves.

pool.py: the processes as a worker sees them. wire.py: what the two say to each other. server.py: one such process.
gunicorn_classes.py: how gunicorn starts and ends them.
"""
