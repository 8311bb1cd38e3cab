import numpy as np
import pytest
import torch

from bench.blocks.attention import symmetric_contrastive_loss
from bench.blocks.images import to_network_scale
from bench.blocks.retrieval import retrieve
from bench.methods.mclstexp.network import MclSTExpNetwork
from tests.golden_case import GoldenCase


@pytest.fixture(scope="module")
def case():
    return GoldenCase("mclstexp_a")


@pytest.fixture(scope="module")
def network(case):
    return MclSTExpNetwork.from_released(case.state())


@pytest.fixture(scope="module")
def inputs(case):
    expression = np.log1p(case.draw("expression").poisson(1.0, case.shape("expression")))
    position = case.draw("position").integers(0, 40, size=case.shape("position"))
    return torch.from_numpy(expression.astype(np.float32)), torch.from_numpy(position)


def images(case, key):
    drawn = case.draw(key).integers(0, 256, size=case.shape(key), dtype=np.uint8)
    if key == "image_blocks":
        drawn = np.kron(drawn, np.ones((32, 32), dtype=np.uint8))
    return to_network_scale(torch.from_numpy(drawn), "rgb01")


@torch.inference_mode()
def test_spot_branch_equals_the_released_network(case, network, inputs):
    expression, position = inputs
    spots = expression + network.x_embed(position[:, 0]) + network.y_embed(position[:, 1])
    case.assert_close("spot_input", spots)
    first = network.spot_encoder[0](spots[None])
    case.assert_close("spot_block0", first[0])
    case.assert_close("spot_encoded", network.spot_encoder[1](first)[0])
    case.assert_close("spot_embeddings", network.embed_spots(expression, position))
    parts = [network.embed_spots(expression[s], position[s]) for s in (slice(3), slice(3, None))]
    case.assert_close("spot_embeddings_two_batches", torch.cat(parts))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("key", "prefix", "temperature"),
    [
        ("image", "", 1.0),
        ("image_blocks", "blocks_", 20.0),
    ],
)
def test_image_branch_and_loss_equal_the_released_network(
    case, network, inputs, monkeypatch, key, prefix, temperature
):
    monkeypatch.setattr(network, "temperature", temperature)
    patches = images(case, key)
    case.assert_close(f"{prefix}image_features", network.image_encoder(patches))
    case.assert_close(f"{prefix}image_embeddings", network.embed_images(patches))
    logits = network(patches, *inputs)
    case.assert_close(f"{prefix}logits", logits)
    case.assert_close(f"{prefix}loss", symmetric_contrastive_loss(logits))


def test_parameters_are_as_many_as_published():
    network = MclSTExpNetwork(785)
    assert sum(p.numel() for p in network.parameters()) == 116_132_850


@pytest.mark.parametrize(
    ("script", "distance"),
    [
        ("her2st", "l1"),
        ("cscc", "l2"),
        ("visium", "l2"),
    ],
)
def test_retrieval_equals_the_released_evaluation(script, distance):
    case = GoldenCase("retrieval_a")
    keys = case.draw("spot_key").standard_normal(case.shape("spot_key")).astype(np.float32)
    queries = case.draw("image_query").standard_normal(case.shape("image_query"))
    queries = queries.astype(np.float32) + np.float32(0.5) * keys[: len(queries)]
    values = np.log1p(case.draw("expression_key").poisson(1.0, case.shape("expression_key")))
    values = values.astype(np.float32).astype(np.float64)
    for name, of in (("expression", values), ("embedding", keys)):
        found = retrieve(
            torch.from_numpy(queries),
            torch.from_numpy(keys),
            torch.from_numpy(of),
            top_k=case.facts["top_k"],
            distance=distance,
        )
        case.assert_close(f"mclstexp_{script}_{name}", found)


def test_plain_mean_equals_the_released_average():
    case = GoldenCase("retrieval_a")
    keys = case.draw("spot_key").standard_normal(case.shape("spot_key")).astype(np.float32)
    queries = case.draw("image_query").standard_normal(case.shape("image_query"))
    queries = queries.astype(np.float32) + np.float32(0.5) * keys[: len(queries)]
    found = retrieve(
        torch.from_numpy(queries),
        torch.from_numpy(keys),
        torch.from_numpy(keys),
        top_k=case.facts["top_k"],
        weighting="mean",
    )
    case.assert_close("bleep_average_embedding", found)


def test_a_query_equal_to_a_key_takes_its_value():
    keys = torch.eye(4)
    values = torch.arange(8.0).reshape(4, 2)
    found = retrieve(keys[:1], keys, values, top_k=4)
    torch.testing.assert_close(found, values[:1])


def test_retrieval_in_chunks_is_the_same(monkeypatch):
    torch.manual_seed(0)
    queries, keys, values = torch.randn(30, 16), torch.randn(50, 16), torch.randn(50, 7)
    whole = retrieve(queries, keys, values, top_k=9)
    monkeypatch.setattr("bench.blocks.retrieval._CHUNK_ELEMENTS", 500)
    torch.testing.assert_close(retrieve(queries, keys, values, top_k=9), whole)
