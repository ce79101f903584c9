from forebay.runtime import storing


def test_ends_behind_the_last_record_move_a_position_further():
    assert storing._furthest({0: 10, 1: 20}, {0: 11, 2: 5}) == {0: 11, 1: 20, 2: 5}


def test_an_end_that_records_have_passed_does_not_move_it_back():
    assert storing._furthest({0: 10}, {0: 4}) == {0: 10}
