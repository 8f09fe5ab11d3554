"""Write the completion scripts of the command line, and the words they offer: python -m cellalign.cli.completions DIR.

Each script asks the installed `cellalign` for what may follow (`cli/complete.py`), so that a script stays right when an
option is added. The files are named as each shell looks for them. `words.json` beside this module holds methods,
presets, settings, panels and metrics, for which completion would have to import torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PROGRAM = "cellalign"
FILES = {"bash": "cellalign.bash", "zsh": "_cellalign", "fish": "cellalign.fish"}
WORDS = Path(__file__).with_name("words.json")

SCRIPTS = {
    "bash": r"""
_cellalign_completion() {
    local line IFS=$'\n'
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default 2>/dev/null || COMPREPLY=( $(compgen -f -- "$2") ); return ;;
            :folders) compopt -o dirnames 2>/dev/null || COMPREPLY=( $(compgen -d -- "$2") ); return ;;
            *[=.]) compopt -o nospace 2>/dev/null ;;
        esac
        COMPREPLY+=( "$line" )
    done < <(_CELLALIGN_COMPLETE=bash COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT \
        COMP_WORDBREAKS=$COMP_WORDBREAKS "$1" 2>/dev/null)
}

complete -F _cellalign_completion cellalign
""",
    "zsh": r"""#compdef cellalign

_cellalign() {
  local -a lines more ends
  lines=("${(@f)$(_CELLALIGN_COMPLETE=zsh _CELLALIGN_WORDS="${(F)${(@Q)words[1,CURRENT]}}" ${words[1]} 2>/dev/null)}")
  case $lines[1] in
    "") return 1 ;;
    :files) _files; return ;;
    :folders) _files -/; return ;;
  esac
  ends=(${(M)lines:#*[=.](|:*)})
  more=(${lines:#*[=.](|:*)})
  (( $#ends )) && _describe -V cellalign ends -S ''
  (( $#more )) && _describe -V cellalign more
}

if [ "$funcstack[1]" = "_cellalign" ]; then
  _cellalign "$@"
else
  compdef _cellalign cellalign
fi
""",
    "fish": r"""function __cellalign_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l asked (string join \n -- $words | string collect)
    set -l lines (env _CELLALIGN_COMPLETE=fish _CELLALIGN_WORDS="$asked" $words[1] 2>/dev/null)
    switch "$lines[1]"
        case ':files'
            __fish_complete_path (commandline -ct)
        case ':folders'
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\n' $lines
    end
end

complete --command cellalign --no-files --arguments '(__cellalign_complete)'
""",
}


def completion_script(shell: str) -> str:
    """Text of the completion script for `shell`, one of bash, zsh and fish."""
    return SCRIPTS[shell]


def words() -> dict[str, Any]:
    """What completion offers of this package's methods, presets, settings, panels and metrics."""
    from cellalign.evaluation.catalogue import catalogue
    from cellalign.evaluation.panels import PANELS
    from cellalign.methods.registry import BUILT_IN, available, loadable, presets
    from cellalign.tasks.train import DEFAULT_METHOD

    settings = {
        name: {key: [field.description or "", _choices(field)] for key, field in _fields(cls)}
        for name, cls in loadable(BUILT_IN)
    }
    return {
        "default": DEFAULT_METHOD,
        "methods": {name: about.summary for name, about in available().items() if name in BUILT_IN},
        "presets": {name: content["method"] for name, content in presets().items()},
        "settings": settings,
        "panels": list(PANELS),
        "metrics": list(dict.fromkeys(metric.name for _, metric in catalogue())),
    }


def _fields(cls: Any) -> list[tuple[str, Any]]:
    from cellalign.engine.settings import plan_of

    return [*cls.Hyperparameters.model_fields.items(), *plan_of(cls).items()]


def _choices(field: Any) -> list[str]:
    if field.annotation is bool:
        return ["true", "false"]
    found = getattr(field.annotation, "__args__", ())
    return list(found) if found and all(isinstance(each, str) for each in found) else []


def words_text() -> str:
    """`words.json` as it is to be."""
    return json.dumps(words(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the scripts of all shells into the directory named by the only argument, and `words.json`."""
    if len(arguments) != 1:
        print("usage: python -m cellalign.cli.completions DIR", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for shell, name in FILES.items():
        (directory / name).write_text(completion_script(shell), encoding="utf-8")
    WORDS.write_text(words_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
