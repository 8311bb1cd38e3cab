"""Image encoders by name: what each is, where its weights come from, where they lie.

Nothing here imports torch; networks are built in :mod:`bench.blocks.encoders`.
"""
