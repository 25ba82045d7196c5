"""How a model learns: a process of its own that turns a job directory into a candidate model and a report."""
