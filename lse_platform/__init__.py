"""The platform on this machine: its home, its processes, and the runs of processes that have exited."""
