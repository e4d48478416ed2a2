"""Reciprocal rank fusion."""

from llmjax.retrieval.fusion import reciprocal_rank_fusion


def test_scores_are_sums_of_reciprocal_ranks():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "a"]])
    assert [item for item, _ in fused] == ["a", "c", "b"]
    assert dict(fused) == {"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62}


def test_one_ranking_stays_and_ties_are_in_order():
    assert [item for item, _ in reciprocal_rank_fusion([[3, 1, 2], []])] == [3, 1, 2]
    assert [item for item, _ in reciprocal_rank_fusion([["a"], ["b"]])] == ["a", "b"]
    assert reciprocal_rank_fusion([]) == []
