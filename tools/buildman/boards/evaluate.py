# SPDX-License-Identifier: GPL-2.0+
"""Values of a few Kconfig symbols for very many defconfigs.

kconfiglib describes a parsed tree in its public attributes. Loading a
defconfig with it touches all symbols (11000 in U-Boot) and computes the asked
ones through thousands of conditions, about 2.7 ms each; here the rules are
evaluated lazily, from what the defconfig assigns, which takes 0.2 ms. Nothing
in the tree changes, so that forked processes share it.

The rules are those of kconfiglib (Symbol.str_value, Symbol.tri_value,
Choice.selection); a test holds the two together on random trees.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

# Lists of rules no longer than this are walked, longer ones are indexed
SHORT = 4

# Our own names for the shape of an expression
_AND, _OR, _NOT, _REL = range(4)


class _Rules:
    """Conditions that are tried in order, with an index of the few that may hold.

    Most conditions name a symbol that is n unless the defconfig sets it: the
    TARGET_… of one board, of which SYS_BOARD alone has 600. Only those whose
    symbol is set have to be evaluated.

    Attributes:
        entries: (value, condition) each
        always: indexes of those that have no such symbol
        by_sym: indexes of the others for each symbol
        syms: the symbols of by_sym
        choices: rules of which the values are the choices that the symbols
            of by_sym belong to; None if there are no such choices
    """
    __slots__ = ('always', 'by_sym', 'choices', 'entries', 'syms')

    def __init__(self, entries: List[Tuple[Any, Any]],
                 guards: Sequence[Optional[Set[Any]]]):
        self.entries = entries
        always: List[int] = []
        by_sym: Dict[Any, List[int]] = {}
        for pos, syms in enumerate(guards):
            if syms is None or len(entries) <= SHORT:
                always.append(pos)
                continue
            for sym in syms:
                by_sym.setdefault(sym, []).append(pos)
        self.always = always
        self.by_sym = by_sym
        self.syms = frozenset(by_sym)
        self.choices: Optional[_Rules] = None


class Evaluator:
    """Evaluates symbols of a parsed tree for one defconfig after another."""

    def __init__(self, lib: Any, kconf: Any) -> None:
        """Take a `kconfiglib` module and the `Kconfig` object that it made."""
        self.kconf = kconf
        self._choice_class = lib.Choice
        self._ops = {lib.AND: _AND, lib.OR: _OR, lib.NOT: _NOT}
        self._relations = {
            lib.EQUAL: lambda val: val == 0, lib.UNEQUAL: lambda val: val != 0,
            lib.LESS: lambda val: val < 0, lib.LESS_EQUAL: lambda val: val <= 0,
            lib.GREATER: lambda val: val > 0,
            lib.GREATER_EQUAL: lambda val: val >= 0}
        self._bools = {lib.BOOL, lib.TRISTATE}
        self._tristate = lib.TRISTATE
        self._string = lib.STRING
        self._base = {lib.INT: 10, lib.HEX: 16}
        # Compiled rules, made when first needed: they are the same for all
        self._prompts: Dict[Any, List[Any]] = {}
        self._defaults: Dict[Any, _Rules] = {}
        self._selects: Dict[Any, _Rules] = {}
        self._implies: Dict[Any, _Rules] = {}
        self._direct: Dict[Any, Any] = {}
        self._compiled: Dict[int, Any] = {}
        # What the current defconfig assigns
        self._user: Dict[Any, Any] = {}
        self._live: Set[Any] = set()
        self._modes: Dict[Any, int] = {}
        self._picked: Dict[Any, Any] = {}
        self._written: Dict[Any, str] = {}
        # What has been computed for it
        self._tri: Dict[Any, int] = {}
        self._vis: Dict[Any, int] = {}
        self._selection: Dict[Any, Any] = {}

    def files(self) -> List[str]:
        """Return the Kconfig files that were read, relative to the tree."""
        return list(dict.fromkeys(self.kconf.kconfig_filenames))

    def names(self, prefix: str) -> List[str]:
        """Return the defined symbols that begin with `prefix`.

        They come in the order in which the Kconfig files first name them.
        """
        return [name for name, sym in self.kconf.syms.items()
                if sym.nodes and name.startswith(prefix)]

    def assign(self, settings: Iterable[Tuple[str, str]]) -> None:
        """Forget the last defconfig and take another.

        Args:
            settings: name without CONFIG_ and value as written each; the
                last one of a name counts. What no Kconfig file defines, and
                values of the wrong kind, are ignored, as make does.
        """
        for store in (self._user, self._live, self._modes, self._picked, self._written,
                      self._tri, self._vis, self._selection):
            store.clear()
        get = self.kconf.syms.get
        user = self._user
        for name, text in settings:
            sym = get(name)
            if sym is None or not sym.nodes:
                continue
            kind = sym.orig_type
            if kind in self._bools:
                tri = 'nmy'.find(text[:1]) if text else -1
                if tri < 0 or (tri == 1 and kind is not self._tristate):
                    continue
                user[sym] = tri
                if sym.choice and tri:
                    self._modes[sym.choice] = tri
                    if tri == 2:
                        self._picked[sym.choice] = sym
            elif kind is self._string:
                if len(text) >= 2 and text[0] == '"':
                    user[sym] = _unquote(text)
                    self._written[sym] = text
            elif _is_number(text, self._base.get(kind, 0)):
                user[sym] = text
        self._live.update(sym for sym, val in user.items() if val)

    def text(self, name: str) -> str:
        """Return the value of symbol `name`, '' if there is no such symbol."""
        sym = self.kconf.syms.get(name)
        if sym is None or not sym.nodes:
            return ''
        return self._text(sym)

    def setting(self, name: str) -> str:
        """Return what .config has after 'CONFIG_NAME=', '' if it has no such line.

        Strings are in quotes. U-Boot's conf takes what is in them as it is when it
        reads a defconfig, and writes it so: a backslash is never added or removed.
        """
        sym = self.kconf.syms.get(name)
        if sym is None or not sym.nodes:
            return ''
        kind = sym.orig_type
        if kind in self._bools:
            return self._text(sym).replace('n', '')
        visible = self._visible(sym)
        if not kind or not (visible or self._default(sym)[1]):
            return ''
        if kind is not self._string:
            return self._text(sym)
        written = self._written.get(sym) if visible else None
        return f'"{self._text(sym)}"' if written is None else written

    # Compiling the rules

    def _compile(self, expr: Any) -> Any:
        """Return `expr` with chains of the same operator made flat."""
        if expr.__class__ is not tuple:
            return expr
        done = self._compiled.get(id(expr))
        if done is not None:
            return done
        oper = self._ops.get(expr[0])
        if oper is None:
            done = (_REL, self._relations[expr[0]], expr[1], expr[2])
        elif oper is _NOT:
            done = (_NOT, self._compile(expr[1]))
        else:
            done = (oper, *(self._compile(item) for item in _chain(expr)))
        # The tree keeps `expr` alive, so that its id stays its own
        self._compiled[id(expr)] = done
        return done

    def _guards(self, expr: Any) -> Optional[Set[Any]]:
        """Return symbols of which one must be set for `expr` to hold.

        None if there are no such symbols. A symbol qualifies when it is n
        unless the defconfig assigns it or its choice selects it.
        """
        if expr.__class__ is tuple:
            if expr[0] is _AND:
                sets = [syms for syms in map(self._guards, expr[1:])
                        if syms is not None]
                return min(sets, key=len) if sets else None
            if expr[0] is _OR:
                both: Set[Any] = set()
                for part in expr[1:]:
                    syms = self._guards(part)
                    if syms is None:
                        return None
                    both |= syms
                return both
            return None
        if expr is self.kconf.n:
            return set()
        if expr.__class__ is self._choice_class or expr.is_constant:
            return None
        if expr.orig_type not in self._bools:
            return set()
        if expr.choice or (not expr.defaults and expr.rev_dep is self.kconf.n
                           and expr.weak_rev_dep is self.kconf.n):
            return {expr}
        return None

    def _make_rules(self, pairs: Iterable[Tuple[Any, Any]]) -> _Rules:
        entries = [(val, self._compile(cond)) for val, cond in pairs]
        return self._index(entries, [self._guards(cond) for _, cond in entries])

    def _index(self, entries: List[Tuple[Any, Any]],
               guards: Sequence[Optional[Set[Any]]]) -> _Rules:
        rules = _Rules(entries, guards)
        choices = list({sym.choice: None for sym in rules.by_sym if sym.choice})
        if choices:
            # The same trick again: of 60 choices of a TARGET_…, one for each
            # kind of SoC, hardly more than one is ever visible
            rules.choices = self._index(
                [(choice, None) for choice in choices],
                [self._guards((_OR, *self._prompts_of(choice))) for choice in choices])
        return rules

    def _prompts_of(self, item: Any) -> List[Any]:
        """Return the conditions under which an item can be set."""
        prompts = self._prompts.get(item)
        if prompts is None:
            prompts = self._prompts[item] = [
                self._compile(node.prompt[1]) for node in item.nodes if node.prompt]
        return prompts

    def _alternatives(self, expr: Any) -> _Rules:
        """Return the rules for the parts of a long 'or', as `rev_dep` is."""
        expr = self._compile(expr)
        parts = expr[1:] if expr.__class__ is tuple and expr[0] is _OR else (expr,)
        return self._index([(None, part) for part in parts],
                           [self._guards(part) for part in parts])

    # Evaluating them

    def _candidates(self, rules: _Rules) -> Iterable[int]:
        """Return the indexes of the rules that may hold, ascending."""
        by_sym = rules.by_sym
        if not by_sym:
            return range(len(rules.entries)) if rules.always else ()
        found = set(rules.always)
        for sym in self._live & rules.syms:
            found.update(by_sym[sym])
        choices = rules.choices
        if choices is not None:
            for pos in self._candidates(choices):
                sym = self._select(choices.entries[pos][0])
                if sym is not None and sym in by_sym:
                    found.update(by_sym[sym])
        return sorted(found)

    def _value(self, expr: Any) -> int:
        """Return the value of a compiled expression: 0 (n), 1 (m) or 2 (y)."""
        if expr.__class__ is not tuple:
            val = self._tri.get(expr)
            return self._tristate_of(expr) if val is None else val
        oper = expr[0]
        if oper is _AND:
            low = 2
            for part in expr[1:]:
                val = self._value(part)
                if val < low:
                    if not val:
                        return 0
                    low = val
            return low
        if oper is _OR:
            high = 0
            for part in expr[1:]:
                val = self._value(part)
                if val > high:
                    if val == 2:
                        return 2
                    high = val
            return high
        if oper is _NOT:
            return 2 - self._value(expr[1])
        return 2 if expr[1](self._compare(expr[2], expr[3])) else 0

    def _compare(self, left: Any, right: Any) -> int:
        """Return <0, 0 or >0: two symbols compared as numbers if both are."""
        if left.orig_type is not self._string or right.orig_type is not self._string:
            try:
                return self._number(left) - self._number(right)
            except ValueError:
                pass
        one, two = self._text(left), self._text(right)
        return (one > two) - (one < two)

    def _number(self, sym: Any) -> int:
        if sym.orig_type in self._bools:
            return self._value(sym)
        return int(self._text(sym), self._base.get(sym.orig_type, 0))

    def _any(self, store: Dict[Any, _Rules], sym: Any, expr: Any) -> int:
        """Return the value of a long 'or' of which the rules are in `store`."""
        if expr is self.kconf.n:
            return 0
        rules = store.get(sym)
        if rules is None:
            rules = store[sym] = self._alternatives(expr)
        high = 0
        for pos in self._candidates(rules):
            val = self._value(rules.entries[pos][1])
            if val > high:
                high = val
                if val == 2:
                    break
        return high

    def _default(self, item: Any) -> Tuple[Any, int]:
        """Return the default that holds and its condition, or (None, 0)."""
        rules = self._defaults.get(item)
        if rules is None:
            rules = self._defaults[item] = self._make_rules(item.defaults)
        for pos in self._candidates(rules):
            val, cond = rules.entries[pos]
            res = self._value(cond)
            if res:
                return val, res
        return None, 0

    def _is_bool(self, item: Any) -> bool:
        """Tell whether a symbol or choice has no m (now, or at all)."""
        if item.orig_type is not self._tristate:
            return True
        if item.__class__ is not self._choice_class and item.choice and \
                self._value(item.choice) == 2:
            return True
        return not self._value(self.kconf.modules)

    def _visible(self, item: Any) -> int:
        """Return the highest value that the user may give to an item."""
        vis = self._vis.get(item)
        if vis is not None:
            return vis
        vis = 0
        for cond in self._prompts_of(item):
            vis = max(vis, self._value(cond))
        if item.__class__ is not self._choice_class and item.choice:
            choice = item.choice
            mode = self._value(choice) if vis else 0
            if item.orig_type is self._tristate:
                if vis == 1 and mode == 2:
                    vis = 0
            elif choice.orig_type is self._tristate and mode != 2:
                vis = 0
        if vis == 1 and self._is_bool(item):
            vis = 2
        self._vis[item] = vis
        return vis

    def _select(self, choice: Any) -> Any:
        """Return the symbol that a choice selects, or None."""
        if choice in self._selection:
            return self._selection[choice]
        found = None
        if self._value(choice) == 2:
            picked = self._picked.get(choice)
            if picked is not None and self._visible(picked):
                found = picked
            else:
                for sym, cond in choice.defaults:
                    if self._value(self._compile(cond)) and self._visible(sym):
                        found = sym
                        break
                else:
                    found = next((sym for sym in choice.syms if self._visible(sym)),
                                 None)
        self._selection[choice] = found
        return found

    def _tristate_of(self, item: Any) -> int:
        """Compute the value of a symbol, or the mode of a choice."""
        if item.__class__ is self._choice_class:
            val = max(0 if item.is_optional else 1, self._modes.get(item, 0))
            val = min(val, self._visible(item))
            if val == 1 and self._is_bool(item):
                val = 2
        elif item.is_constant:
            val = int(item.tri_value)
        elif item.orig_type not in self._bools:
            val = 0
        elif item.choice:
            vis = self._visible(item)
            if vis == 2:
                val = 2 if self._select(item.choice) is item else 0
            else:
                val = 1 if vis and self._user.get(item) else 0
        else:
            val = self._plain(item)
        self._tri[item] = val
        return val

    def _plain(self, sym: Any) -> int:
        """Compute a bool or tristate symbol that belongs to no choice."""
        user: Optional[int] = self._user.get(sym)
        vis = 0 if user is None else self._visible(sym)
        if user is not None and vis:
            val = min(user, vis)
        else:
            default, cond = self._default(sym)
            val = min(self._value(self._compile(default)), cond) if cond else 0
            implied = self._any(self._implies, sym, sym.weak_rev_dep)
            if implied > val:
                direct = self._direct.get(sym)
                if direct is None:
                    direct = self._direct[sym] = self._compile(sym.direct_dep)
                if self._value(direct):
                    val = implied
        if val != 2:
            val = max(val, self._any(self._selects, sym, sym.rev_dep))
        if val == 1 and (self._is_bool(sym) or
                         self._any(self._implies, sym, sym.weak_rev_dep) == 2):
            val = 2
        return val

    def _text(self, sym: Any) -> str:
        """Return the value of a symbol as text."""
        if sym.is_constant:
            return str(sym.str_value)
        kind = sym.orig_type
        if kind in self._bools:
            return 'nmy'[self._value(sym)]
        if not kind:
            return str(sym.name)    # as in Kconfig: an undefined name is its text
        user = self._user.get(sym)
        if user is not None and not self._visible(sym):
            user = None
        if kind is self._string:
            if user is not None:
                return str(user)
            default, cond = self._default(sym)
            return self._text(default) if cond else ''
        return self._int_text(sym, user)

    def _int_text(self, sym: Any, user: Optional[str]) -> str:
        """Return the value of an int or hex symbol, kept within its range."""
        base = self._base[sym.orig_type]
        limits: Optional[Tuple[int, int]] = None
        for low, high, cond in sym.ranges:
            if self._value(self._compile(cond)):
                limits = (_to_int(self._text(low), base),
                          _to_int(self._text(high), base))
                break
        if user and (limits is None or limits[0] <= int(user, base) <= limits[1]):
            return user
        default, cond = self._default(sym)
        text = self._text(default) if cond else ''
        if limits is None:
            return text
        val = _to_int(text, base)
        fixed = limits[0] if val < limits[0] else limits[1] if val > limits[1] else None
        if fixed is None:
            return text
        return str(fixed) if base == 10 else hex(fixed)


def _chain(expr: Any) -> List[Any]:
    """Return the operands of a chain of the same operator, left to right."""
    out: List[Any] = []
    todo = [expr]
    while todo:
        item = todo.pop()
        if item.__class__ is tuple and item[0] == expr[0]:
            todo += (item[2], item[1])
        else:
            out.append(item)
    return out


def _unquote(text: str) -> str:
    """Return the content of a quoted string; a backslash keeps what follows."""
    if '\\' not in text:
        return text[1:text.find('"', 1)]
    out = []
    pos = 1
    while pos < len(text) and text[pos] != '"':
        if text[pos] == '\\' and pos + 1 < len(text):
            pos += 1
        out.append(text[pos])
        pos += 1
    return ''.join(out)


def _is_number(text: str, base: int) -> bool:
    """Tell whether `text` is a number that an int or hex symbol accepts."""
    if not base:
        return False
    try:
        val = int(text, base)
    except ValueError:
        return False
    return base == 10 or val >= 0


def _to_int(text: str, base: int) -> int:
    """Return the number in `text`, 0 if there is none (as strtoll() does)."""
    try:
        return int(text, base)
    except ValueError:
        return 0
