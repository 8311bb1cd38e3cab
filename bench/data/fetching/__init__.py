"""Files that come over the net: fetched, unpacked, verified."""
