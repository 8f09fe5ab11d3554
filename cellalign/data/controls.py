"""Which value of a condition is its control, by its name: control, NT, DMSO, mock, healthy, unstimulated, 0, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cellalign.data.values import number_of

USUAL = {"control", "ctrl", "unperturbed", "untreated", "non-targeting", "dmso", "vehicle"}  # in any case
CONTROLS = frozenset(
    """
    control controls ctrl ctrls ctl cntrl
    unperturbed nonperturbed noperturbation unedited nontransduced untransduced
    untreated nontreated nottreated notreatment nodrug none nil
    nontargeting nontarget nontargetingcontrol nontargetingguide nontargetingguides nontargetingsgrna nontargetingctrl
    notarget nt ntc nts ntctrl ntcontrol sgnt sgntc sgnontargeting sgctrl sgcontrol sgneg sgscr sgscramble sgscrambled
    sint sintc sictrl sicontrol sineg siscr siscramble shctrl shcontrol shscr shscramble
    negctrl negcontrol negctl negativecontrol negativectrl negative neg negcon
    scramble scrambled scramblecontrol scr
    dmso dmsotf dmsocontrol dmsoctrl dmsovehicle vehicle vehiclecontrol vehicledmso veh pbs pbscontrol saline medium
    media mediumonly mediaonly water placebo sham
    mock mockinfected mocktransfected mocktreated mockcontrol uninfected noninfected notinfected untransfected
    nontransfected
    unstimulated unstim nonstimulated nonstim notstimulated nostimulation nostim unst resting
    healthy healthycontrol healthydonor hc normal nondiseased nondisease
    wt wildtype wtcontrol
    pre pretreatment pretx baseline before
    day0 d0 t0 time0 week0 w0 hour0 h0 timepoint0
    """.split()
)
# words that say too little within a longer name
ALONE = frozenset("none nil negative neg hc normal pre baseline before resting medium media water d0 t0 w0 h0".split())
ZERO_DOSE = re.compile(r"(?<=[^\d.\s_\-@(])[\s_\-@(]+0+([.]0+)?\s*[a-zµμ%/]*\)?$")  # of control_0.0, dmso (0 uM)
ZERO = re.compile(r"0+([.]0+)?\s*([a-zµμ%]{1,4}(/[a-z]{1,3})?)?")  # 0, 0.0, 0h, 0 uM, 0 ng/ml


@dataclass(frozen=True)
class Control:
    """What was found among the values of a condition.

    Attributes
    ----------
    name : str, optional
        The control, where it is clear.
    alike : list of str
        Values that are called as controls are, or hold such a word, and were not taken.
    """

    name: str | None
    alike: list[str]


def control_of(names: Sequence[str]) -> Control:
    """The control among the values of a condition.

    It is the only one called control, ctrl, unperturbed, ..., as ever; else the only one of a longer list of names,
    case and separators seen through, of which the number 0 is one. Several are told, and none is taken.
    """
    usual = [name for name in names if name.strip().lower() in USUAL]
    called = [name for name in names if is_control(name)]
    taken = usual if len(usual) == 1 else called if len(called) == 1 and not usual else []
    return Control(taken[0] if taken else None, [n for n in names if n not in taken and (n in called or _like(n))])


def find_control(names: Sequence[str]) -> str | None:
    """The control among the values of a condition, where it is clear."""
    return control_of(names).name


def is_control(name: str) -> bool:
    """Whether a value is called as controls are."""
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and all(parts):
        return all(map(is_control, parts))
    if number_of(name) == 0 or ZERO.fullmatch(name.strip().lower()):
        return True
    return _bare(name) in CONTROLS or _bare(ZERO_DOSE.sub("", name.strip().lower())) in CONTROLS


def _bare(name: str) -> str:
    """Letters and digits in lower case."""
    return re.sub(r"[\W_]+", "", name.lower())


def _like(name: str) -> bool:
    """Whether a word of it, or two together, are a control's name, or its dose is zero."""
    text = name.strip().lower()
    if ZERO_DOSE.search(text):
        return True
    found = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip()))
    words = [word.lower() for word in found]
    pairs = [a + b for a, b in zip(words, words[1:], strict=False)]
    return "+" not in name and any(word in CONTROLS and word not in ALONE for word in [*words, *pairs])
