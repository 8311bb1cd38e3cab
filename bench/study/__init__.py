"""Studies: the runs, tables and figures of a paper or a comparison, as one file says."""
