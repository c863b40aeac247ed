"""Jobs on this machine: a queue of files, and a process without a terminal that runs what is in it."""
