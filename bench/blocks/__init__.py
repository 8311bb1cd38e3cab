"""Network parts that several methods share.

Importing them imports torch, save for `frozen` and `positions`, which settings and glue use.
"""
