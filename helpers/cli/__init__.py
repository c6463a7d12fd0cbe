"""What the tasks say and print. Nothing here knows Invoke: tasks.py declares a task and makes one call into this."""
