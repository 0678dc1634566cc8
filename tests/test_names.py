import pytest

from camlib.names import UnknownName, lookup

NETS = {"resnet20": 1, "resnet56": 2, "wrn28_10": 3}


def test_known_name():
    assert lookup(NETS, "resnet56", "net") == 2


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(KeyError) as error:
        lookup(NETS, "resnet65", "net")
    assert isinstance(error.value, UnknownName)
    assert str(error.value) == "no net is called 'resnet65'; the nearest: resnet56, resnet20"


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(KeyError) as error:
        lookup(NETS, "???", "net")
    assert str(error.value) == "no net is called '???'; there are resnet20, resnet56, wrn28_10 …"
