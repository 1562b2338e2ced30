"""The small changes: every way in which one line of a function could be slightly wrong."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {
    one: other
    for pair in (("any", "all"), ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"),
                 ("floor", "ceil"), ("append", "extend"), ("zeros", "ones"), ("first", "last"))
    for one, other in (pair, pair[::-1])
}  # fmt: skip
#: Texts and types, not behaviour.
PASSED_OVER = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutation:
    """One change of one function: ``source[start:end]`` becomes ``now``."""

    file: str  #: relative to the package
    function: str  #: with its class, as in a traceback
    start: int  #: in characters
    end: int
    lines: range  #: of the statement that is changed, from 1
    was: str
    now: str
    nth: int  #: among equal changes of the function, in the order of the source

    @property
    def name(self) -> str:
        """The same in every version of the file that leaves this function alone."""
        again = f" ({self.nth + 1})" if self.nth else ""
        return f"{self.file}:{self.function}: {self.was} -> {self.now}{again}"

    def place(self, seed: int) -> bytes:
        """Where it comes in the order of a seed, which no change elsewhere touches."""
        return hashlib.sha256(f"{seed} {self.name}".encode()).digest()

    def applied(self, source: str) -> str:
        return source[: self.start] + self.now + source[self.end :]


def mutations(source: str, file: str) -> Iterator[Mutation]:
    """Every change of every function of a file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    text = source.splitlines()

    def at(line: int, column: int) -> int:  # Python counts a column in bytes
        return starts[line - 1] + len(text[line - 1].encode()[:column].decode())

    seen: dict[tuple, int] = {}
    for function, statement, node, now in _changes(ast.parse(source)):
        start, end = (at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset))
        was = " ".join(source[start:end].split())
        key = (function, was, now)
        seen[key] = seen.get(key, -1) + 1
        lines = range(statement.lineno, _header_end(statement) + 1)
        yield Mutation(file, function, start, end, lines, was, now, seen[key])


def _header_end(statement: ast.stmt) -> int:
    """The last line of a statement without the block that it opens."""
    body = getattr(statement, "body", None)
    return max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno


def _changes(tree: ast.Module):
    """(function, statement, node, what the node becomes) for every change of a module."""

    def visit(node, function, statement):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inside = ".".join([*function, node.name])
            parts = node.args.defaults + node.args.kw_defaults if hasattr(node, "args") else []
            for child in [*filter(None, parts), *node.body]:
                yield from visit(child, inside.split("."), child if child in node.body else node)
            return
        if isinstance(node, PASSED_OVER) or _is_text(node):
            return
        if isinstance(node, ast.stmt):
            statement = node
        if function:
            for now in _of_node(node):
                yield ".".join(function), statement, node, now
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "msg", "type", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, function, statement)

    yield from (change for node in tree.body for change in visit(node, [], node))


def _is_text(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _of_node(node) -> Iterator[str]:
    """What a node may become, as source."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in COMPARISONS:
            yield _text(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))
        case ast.BoolOp(operator, values):
            yield _text(
                ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            )
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield _text(operand)
        case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
            yield _text(ast.BinOp(left, ARITHMETIC[type(operator)](), right))
        case ast.IfExp(test, body, orelse):
            yield _text(ast.IfExp(test, orelse, body))
        case ast.Constant(bool() as value):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield repr(value + 1 if value + 1 != value else 2 * value)  # 1e30 + 1 is 1e30
            if value - 1 != value > 1:
                yield repr(value - 1)
        case ast.Name(name) if name in NAMES:
            yield NAMES[name]
        case ast.Attribute(value, "float32" | "float64" as name):
            other = "bfloat16" if ast.unparse(value) == "mx" else "float16"
            yield f"{_text(value)}.{other if name == 'float32' else 'float32'}"
        case ast.Attribute(value, name) if name in NAMES:
            yield f"{_text(value)}.{NAMES[name]}"
        case ast.Slice(lower, upper, step) if upper is not None:
            yield ast.unparse(ast.Slice(lower, ast.BinOp(upper, ast.Add(), ast.Constant(1)), step))
        case ast.Call(ast.Attribute(value, "astype"), [dtype], []):
            asked = ast.unparse(dtype)
            wide = "np.float64" if asked.startswith("np.") else "mx.float32"
            yield _text(value) if asked == wide else f"{_text(value)}.astype({wide})"
        case ast.Call(ast.Name("range"), [*first, last], []):
            longer = ast.BinOp(last, ast.Add(), ast.Constant(1))
            yield ast.unparse(ast.Call(node.func, [*first, longer], []))
        case ast.Call(ast.Name("sorted" | "reversed" | "abs"), [value, *_]):
            yield _text(value)
        case ast.keyword(str()):
            yield "**{}"  # left out
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Expr(ast.Call()) | ast.AugAssign():
            yield "pass"
        case ast.Assign([target], ast.Call(args=args)) if any(
            ast.unparse(target) == ast.unparse(arg) for arg in args
        ):
            yield "pass"  # x = f(x)


def _text(node: ast.expr) -> str:
    """In parentheses where what stands around it would be drawn in."""
    text = ast.unparse(ast.fix_missing_locations(node))
    whole = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant))
    return text if whole else f"({text})"
