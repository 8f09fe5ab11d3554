"""The chooser says of every method what its class says."""

from cellalign.methods.base import FitsInClosedForm, Trains
from cellalign.methods.registry import BUILT_IN, loadable
from cellalign.tasks.chooser import CHOICES, CLOSED, choice_of, question_of


def test_every_method_is_chosen_for_one_question():
    listed = [name for among in CHOICES.values() for name in among]
    assert sorted(listed) == sorted(BUILT_IN)


def test_what_a_method_needs_is_what_its_class_needs():
    for name, cls in loadable(BUILT_IN):
        choice = choice_of(name, cls.summary)
        needs = choice.needs.replace(";", "").split()
        assert ("raw counts" in choice.needs) == (cls.reads(cls.Hyperparameters()) == "counts"), name
        assert not cls.needs_condition or "condition" in needs, name
        assert not cls.needs_label or "label" in needs, name
        named = {word.strip(",") for word in needs} & {"condition", "batch", "covariate", "label"}
        assert named <= set(cls.uses()), name
        if issubclass(cls, FitsInClosedForm) and not issubclass(cls, Trains):
            assert choice.cost.startswith(CLOSED), name
        if issubclass(cls, Trains):
            assert not choice.cost.startswith(CLOSED), name


def test_a_method_of_another_package_says_what_it_is():
    choice = choice_of("mine", "shifts cells")
    assert (choice.gives, question_of("mine")) == ("shifts cells", "Methods of other packages")
