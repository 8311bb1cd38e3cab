"""A protocol that has been used never changes under its name and version."""

from bench.protocol.rules import PROTOCOLS

HASHES = {
    ("strict", 1): "4614d6060fde2ee476fe43108ba31a942857045a9a8899292a095ffd64396263",
    ("published", 1): "a0ca8cd20c4c70ba03fe4e429e8f2161bbc60923520f90af7ca4e92dd55962bf",
    ("by-section", 1): "9049c1061b5a412d72e4ff89de7aa1d8f7f7b6827ea058a62a9f6a1b24c2789e",
    ("hest", 1): "3390b398d7b4cba5150a3f11cf6e7bade09beef6e5033a4a3d558dd2b91e7f61",
    ("hest-paper", 1): "bc1c463a5370c9149ec31a99e90c69c62cf221f694206faeec8ca2b3e0e9574c",
    ("triplex", 1): "da87b57360ca7dcae0078f3e0f1ed07b2d60af02226b717b489a519c382c5f0c",
}
"""Hash by name and version; another rule needs another entry, never another hash."""


def test_every_protocol_has_the_hash_of_its_name_and_version():
    built_in = {(rules.name, rules.version): rules.hash for rules in PROTOCOLS.values()}
    # A protocol that is new here is entered above; one whose rules changed gets a new version.
    assert {known: HASHES.get(known) for known in built_in} == built_in
