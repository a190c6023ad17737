"""Tokens to a tree."""

from __future__ import annotations

from slipway.store.gotemplate.lexer import Piece, Token, pieces
from slipway.store.gotemplate.nodes import (
    Action,
    Argument,
    Branch,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Jump,
    Literal_,
    Pipe,
    TemplateError,
    Text,
    Tree,
    Variable,
)

MAX_DEPTH = 100

_BRANCHES = ("if", "with", "range")
_CONSTANTS = {"true": True, "false": False, "nil": None}
_KEYWORDS = {*_BRANCHES, "else", "end", "define", "block", "template", "break", "continue"}


def parse_tree(source: str, functions: frozenset[str]) -> Tree:
    """Parse a template.

    Args:
        functions: names that may be called.

    Raises:
        TemplateError: naming the line.
    """
    return _Parser(pieces(source), functions).tree()


class _Parser:
    def __init__(self, found: list[Piece], functions: frozenset[str]) -> None:
        self.pieces, self.at, self.functions = found, 0, functions
        self.defined: dict[str, tuple[object, ...]] = {}
        self.depth = 0
        self.loops = 0

    def tree(self) -> Tree:
        body, ended = self.body()
        if ended is not None:
            raise TemplateError(f"unexpected {{{{{ended.word}}}}}", ended.line)
        return Tree(body, self.defined)

    def body(self) -> tuple[tuple[object, ...], _Action | None]:
        """Nodes up to `end` or `else`, which is given back; None at the end of the template."""
        self.depth += 1
        nodes: list[object] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at += 1
            if self.depth > MAX_DEPTH:
                raise TemplateError("nested too deeply", piece.line)
            if piece.tokens is None:
                nodes.append(Text(piece.line, piece.text))
                continue
            action = _Action(piece, self.functions)
            if action.word in ("end", "else"):
                self.depth -= 1
                return tuple(nodes), action
            nodes.extend(self.node(action))
        self.depth -= 1
        return tuple(nodes), None

    def node(self, action: _Action) -> list[object]:
        word, line = action.word, action.line
        if word in _BRANCHES:
            action.take()
            return [self.branch(action, word)]
        match word:
            case "define":
                if self.depth > 1:
                    raise TemplateError("unexpected {{define}} inside of another action", line)
                action.take()
                name = action.string()
                action.finish()
                self.defined[name] = self.closed(line)
                return []
            case "block":
                action.take()
                name = action.string()
                pipe = action.pipe()
                action.finish()
                self.defined[name] = self.closed(line)
                return [Call(line, name, pipe)]
            case "template":
                action.take()
                name = action.string()
                pipe_or_none = None if action.is_done() else action.pipe()
                action.finish()
                return [Call(line, name, pipe_or_none)]
            case "break" | "continue" as kind:
                action.take()
                action.finish()
                if not self.loops:
                    raise TemplateError(f"{kind} outside of range", line)
                return [Jump(line, kind)]
        pipe = action.pipe(declares=True)
        action.finish()
        return [Action(line, pipe)]

    def closed(self, line: int) -> tuple[object, ...]:
        """A body that ends with `end`."""
        nodes, ended = self.body()
        if ended is None or ended.word != "end":
            raise TemplateError("this has no {{end}}", line)
        return nodes

    def branch(self, action: _Action, kind: str) -> Branch:
        line = action.line
        pipe = action.pipe(declares=True, several=kind == "range")
        action.finish()
        self.loops += kind == "range"
        body, ended = self.body()
        self.loops -= kind == "range"
        otherwise: tuple[object, ...] = ()
        if ended is not None and ended.word == "else":
            ended.take()
            if ended.word in ("if", "with"):
                word = ended.word
                ended.take()
                self.depth += 1
                if self.depth > MAX_DEPTH:
                    raise TemplateError("nested too deeply", line)
                otherwise = (self.branch(ended, word),)
                self.depth -= 1
            else:
                ended.finish()
                otherwise = self.closed(line)
        elif ended is None:
            raise TemplateError(f"{{{{{kind}}}}} has no {{{{end}}}}", line)
        return Branch(line, kind, pipe, body, otherwise)  # type: ignore[arg-type]


class _Action:
    """The tokens of one action, taken from the left."""

    def __init__(self, piece: Piece, functions: frozenset[str]) -> None:
        assert piece.tokens is not None
        self.tokens, self.at, self.line = list(piece.tokens), 0, piece.line
        self.functions = functions
        self.depth = 0

    @property
    def word(self) -> str:
        """The next word, or empty."""
        token = self.peek()
        return token.text if token is not None and token.kind == "word" else ""

    def peek(self) -> Token | None:
        self.space()
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def space(self) -> bool:
        found = False
        while self.at < len(self.tokens) and self.tokens[self.at].kind == "space":
            self.at, found = self.at + 1, True
        return found

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise TemplateError("an action is not complete", self.line)
        self.at += 1
        return token

    def is_done(self) -> bool:
        return self.peek() is None

    def finish(self) -> None:
        token = self.peek()
        if token is not None:
            raise TemplateError(f"unexpected {token.text!r}", token.line)

    def string(self) -> str:
        token = self.take()
        if not isinstance(token.value, str):
            raise TemplateError("a name in quotes is missing", token.line)
        return token.value

    def sign(self, text: str) -> bool:
        token = self.peek()
        if token is not None and token.kind == "sign" and token.text == text:
            self.at += 1
            return True
        return False

    def pipe(self, *, declares: bool = False, several: bool = False) -> Pipe:
        line = self.line
        names: list[str] = []
        is_new = False
        if declares:
            names, is_new = self.declaration(several)
        commands = [self.command()]
        while self.sign("|"):
            commands.append(self.command())
            if not isinstance(commands[-1].arguments[0], Function | Field | Variable | Chain):
                raise TemplateError("what comes after | must be a function", line)
        return Pipe(line, tuple(commands), tuple(names), is_new)

    def declaration(self, several: bool) -> tuple[list[str], bool]:
        """`$x :=`, `$x =`, `$i, $x :=`; nothing when there is none."""
        start = self.at
        names: list[str] = []
        while (token := self.peek()) is not None and token.kind == "variable":
            self.at += 1
            names.append(token.text)
            if self.sign(":="):
                return names, True
            if self.sign("="):
                return names, False
            if not (several and len(names) == 1 and self.sign(",")):
                break
        self.at = start
        return [], False

    def command(self) -> Command:
        arguments: list[Argument] = []
        while (token := self.peek()) is not None:
            if token.kind == "sign" and token.text != "(":
                break
            arguments.append(self.operand())
        if not arguments:
            raise TemplateError("a value is missing", self.line)
        return Command(self.line, tuple(arguments))

    def operand(self) -> Argument:
        token = self.take()
        line = token.line
        if token.kind == "sign":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise TemplateError("nested too deeply", line)
            inner = self.pipe()
            if not self.sign(")"):
                raise TemplateError("a ( has no )", line)
            self.depth -= 1
            return Chain(line, inner, self.fields())
        match token.kind:
            case "value":
                return Literal_(line, token.value)
            case "dot":
                return Dot(line)
            case "field":
                return Field(line, (token.text[1:], *self.fields()))
            case "variable":
                return Variable(line, token.text, self.fields())
        if token.text in _CONSTANTS:
            return Literal_(line, _CONSTANTS[token.text])
        if token.text in _KEYWORDS or token.text not in self.functions:
            raise TemplateError(f"function {token.text!r} is not defined", line)
        return Function(line, token.text)

    def fields(self) -> tuple[str, ...]:
        """`.A.B` that follows at once."""
        names = []
        while self.at < len(self.tokens) and self.tokens[self.at].kind == "field":
            names.append(self.tokens[self.at].text[1:])
            self.at += 1
        return tuple(names)
