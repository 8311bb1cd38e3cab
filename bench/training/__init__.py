"""Training of networks: batches, the training helper, and base classes of methods.

Importing `network_method` and `retrieval_method` imports no torch; `bench.api` hands them on.
"""
