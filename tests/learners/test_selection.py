from learners.selection import SHARE, chooses


def test_about_a_third_chooses_and_always_the_same():
    ids = [f"example {number}" for number in range(6_000)]
    chosen = [id for id in ids if chooses(id)]
    assert abs(len(chosen) / len(ids) - SHARE) < 0.02
    assert chosen == [id for id in ids if chooses(id)]
