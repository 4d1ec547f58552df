# SPDX-License-Identifier: GPL-2.0+
"""What lets a shell complete our command line (--completion), made from the parser.

A script is made once and runs without us: boards are the defconfigs that are in the
tree, branches come from git. So it is quick and never old, and it runs none of the words
that it offers, whatever a branch is called.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Callable, Dict, List

from buildman.cli.cmdline import make_parser

# What a value may be, by what its metavar begins with
_KINDS = {'DIR|BRANCH': 'place', 'FILE': 'file', 'DIR': 'folder', 'BRANCH': 'branch',
          'BOARD': 'boards'}


def _kind(action: argparse.Action) -> str:
    """Return what can stand for the value of a flag: see _KINDS, 'boards', or '' """
    if action.dest in ('boards', 'exclude'):
        return 'boards'
    return next((kind for word, kind in _KINDS.items()
                 if str(action.metavar).startswith(word)), '')


def _flags() -> List[argparse.Action]:
    """Return all flags"""
    return [action for group in make_parser().by_group().values() for action in group
            if action.option_strings]


def _choices(action: argparse.Action) -> str:
    """Return the words that a flag takes, as a shell takes them"""
    return shlex.join(map(str, action.choices or ()))


_BASH = r'''# Completion of buildman's command line for bash: . <(buildman --completion bash)
_buildman_offer()  # prefix, beginning; words on stdin, which are never run
{
    local word
    while IFS= read -r word; do
        if [[ $word = "$2"* ]]; then
            printf -v word %q "$word"
            COMPREPLY+=("$1$word")
        fi
    done
}

_buildman_boards()
{
    local name
    for name in "$1"/configs/*_defconfig; do
        name=${name##*/}
        [[ $name = '*_defconfig' ]] || printf '%s\n' "${name%_defconfig}"
    done
}

_buildman()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} dir=. num list=
    if [[ $prev = = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $cur = = ]]; then
        cur=
    fi
    for ((num = 1; num < COMP_CWORD - 1; num++)); do
        case ${COMP_WORDS[num]} in
        -g | --git) dir=${COMP_WORDS[num+1]/#\~/$HOME} ;;
        esac
    done
    COMPREPLY=()
    case $prev in
@cases@
    *)
        if [[ $cur = -* ]]; then
            _buildman_offer '' "$cur" < <(printf '%s\n' @flags@)
        else
            _buildman_offer '' "$cur" < <(_buildman_boards "$dir")
        fi ;;
    esac
}
complete -F _buildman buildman
'''

_BASH_ACTIONS = {
    'file': ("compopt -o filenames 2>/dev/null\n"
             "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") ;;"),
    'folder': ("compopt -o filenames 2>/dev/null\n"
               "        mapfile -t COMPREPLY < <(compgen -d -- \"$cur\") ;;"),
    'branch': ("_buildman_offer '' \"$cur\" < <(git -C \"$dir\" for-each-ref "
               "--format='%(refname:short)' \\\n            refs/heads refs/remotes "
               "2>/dev/null) ;;"),
    'place': ("compopt -o filenames 2>/dev/null\n"
              "        mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")\n"
              "        _buildman_offer '' \"$cur\" < <(git -C \"$dir\" for-each-ref "
              "--format='%(refname:short)' \\\n            refs/heads refs/remotes "
              "2>/dev/null) ;;"),
    'boards': ("[[ $cur = *,* ]] && list=${cur%,*},\n"
               '        _buildman_offer "$list" "${cur##*,}" < <(_buildman_boards "$dir") ;;'),
    '': ';;',
}


def _bash() -> str:
    """Return the script for bash"""
    cases: Dict[str, List[str]] = {}
    for action in _flags():
        if action.nargs not in (0, '?'):
            words = _choices(action)
            what = (f"_buildman_offer '' \"$cur\" < <(printf '%s\\n' {words}) ;;" if words
                    else _BASH_ACTIONS[_kind(action)])
            cases.setdefault(what, []).extend(action.option_strings)
    text = '\n'.join(f"    {' | '.join(names)})\n        {what}" for what, names in cases.items())
    names = ' '.join(name for action in _flags() for name in action.option_strings)
    return _BASH.replace('@cases@', text).replace('@flags@', names)


_ZSH = r'''#compdef buildman
# Completion of buildman's command line for zsh: . <(buildman --completion zsh) after
# compinit, or as a file _buildman in a folder of $fpath
_buildman_dir()
{
    REPLY=${(Q)${opt_args[-g]:-${opt_args[--git]:-.}}}
    REPLY=${REPLY/#\~/$HOME}
}

_buildman_boards()
{
    local REPLY
    _buildman_dir
    local -a boards=($REPLY/configs/*_defconfig(N:t))
    boards=(${boards%_defconfig})
    compadd "$@" -a boards
}

_buildman_branches()
{
    local REPLY
    _buildman_dir
    local -a branches=(${(f)"$(git -C $REPLY for-each-ref --format='%(refname:short)' \
        refs/heads refs/remotes 2>/dev/null)"})
    compadd "$@" -a branches
}

_buildman_places()
{
    _alternative 'folders:folder:_files -/' 'branches:branch:_buildman_branches'
}

_buildman()
{
    local curcontext=$curcontext
    typeset -A opt_args
    _arguments -s -S \
@specs@
        '*:term:_buildman_boards'
}

if [[ $funcstack[1] = _buildman ]]; then
    _buildman "$@"
else
    compdef _buildman buildman
fi
'''

_ZSH_ACTIONS = {'file': '_files', 'folder': '_files -/', 'branch': '_buildman_branches',
                'place': '_buildman_places',
                'boards': '_sequence _buildman_boards', '': ' '}


def _zsh() -> str:
    """Return the script for zsh"""
    specs = []
    for action in _flags():
        text = (action.help or '').replace('%%', '%')
        for char in '\\[]:':
            text = text.replace(char, '\\' + char)
        words = _choices(action)
        value = '' if action.nargs == 0 else ':{}:{}'.format(
            str(action.metavar or action.dest).replace(':', r'\:'),
            f'({words})' if words else _ZSH_ACTIONS[_kind(action)])
        value = ':' + value if value and action.nargs == '?' else value
        repeated = isinstance(action.default, list) or 'repeated' in text
        for name in action.option_strings:
            joined = '' if action.nargs == 0 else '=' if name.startswith('--') else '+'
            before = '*' if repeated else f"({' '.join(action.option_strings)})"
            specs.append(' ' * 8 + shlex.quote(f'{before}{name}{joined}[{text}]{value}') + ' \\')
    return _ZSH.replace('@specs@', '\n'.join(specs))


_FISH = r'''# Completion of buildman's command line for fish: buildman --completion fish | source
function __buildman_dir
    set -l words (commandline -opc)
    for num in (seq 2 (count $words))
        if contains -- $words[$num] -g --git
            echo $words[(math $num + 1)]
            return
        end
    end
    echo .
end

function __buildman_boards
    set -l names (__buildman_dir)/configs/*_defconfig
    string replace -r '.*/(.*)_defconfig$' '$1' -- $names
end

function __buildman_branches
    git -C (__buildman_dir) for-each-ref --format='%(refname:short)' \
        refs/heads refs/remotes 2>/dev/null
end

complete -c buildman -f -a '(__buildman_boards)'
'''

_FISH_ACTIONS = {'file': ' -r -F', 'folder': " -x -a '(__fish_complete_directories)'",
                 'branch': " -x -a '(__buildman_branches)'",
                 'place': " -x -a '(__fish_complete_directories; __buildman_branches)'",
                 'boards': " -x -a '(__fish_complete_list , __buildman_boards)'", '': ' -x'}


def _fish_quote(text: str) -> str:
    """Return text as a word of fish's"""
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


def _fish() -> str:
    """Return the script for fish"""
    lines = []
    for action in _flags():
        names = ''.join(f' -l {name[2:]}' if name.startswith('--') else f' -s {name[1:]}'
                        for name in action.option_strings)
        value = '' if action.nargs == 0 else _FISH_ACTIONS[_kind(action)]
        if action.choices:
            value = f' -x -a {_fish_quote(_choices(action))}'
        text = _fish_quote((action.help or '').replace('%%', '%'))
        lines.append(f'complete -c buildman{names}{value} -d {text}\n')
    return _FISH + ''.join(lines)


SHELLS: Dict[str, Callable[[], str]] = {'bash': _bash, 'zsh': _zsh, 'fish': _fish}
