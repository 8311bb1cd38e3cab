"""What tests of downloads share: a quick policy, contents, calls."""

import hashlib

from bench.data.lock import LOCK
from bench.fetch.download import RetryPolicy
from bench.fetch.fetch import fetch_dataset

QUICK = RetryPolicy(connect=2, read=0.25, slowest=1000, attempts=3, pause=0)
CONTENT = b"\tGENE\n" + b"1x1\t1\n" * 3000
OTHER = CONTENT[:-2] + b"2\n"


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def left(root):
    """Files in a data folder, but for those of the locks."""
    found = (p for p in root.rglob("*") if p.is_file())
    names = sorted(p.relative_to(root).as_posix() for p in found)
    return [name for name in names if not name.startswith((".spotbench-", LOCK))]


def counts(**known):
    return {"counts": {"path": "counts.tsv", **known}}


def get(card, root, **options):
    outcome = fetch_dataset(card, root, policy=options.pop("policy", QUICK), **options)
    for fault in outcome.failed.values():
        assert "\n" not in fault
        assert len(fault) < 700
    return outcome
