"""``gemma4-mlx lab | chat | trace | atlas | fit | verify | check``: the package from a terminal.

A mistake of the user's (a file that is not there, a model too large) is one line on standard
error and exit status 2; Ctrl-C is 130.
"""

import argparse
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import Gemma4Error, MissingError

START_NOTEBOOK = "00_start_here.ipynb"
#: What goes into the learner's folder: the notebooks, and the pages that they lead to.
COURSE = ("*.ipynb", "glossary.md", "teachers.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal of few characters shows "?" for others
            stream.reconfigure(errors="replace")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return options.run(options) or 0
    except (Gemma4Error, FileNotFoundError) as error:
        print(f"gemma4-mlx: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        missing = MissingError.of(f"{options.command}", error)
        if missing is None:
            raise
        print(f"gemma4-mlx: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, a pager) has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="gemma4-mlx",
        description="Gemma 4 on MLX, made to be looked into.",
        epilog="Begin with `gemma4-mlx lab`; `gemma4-mlx COMMAND --help` lists what it takes.",
    )
    parser.add_argument("--version", action="version", version=f"gemma4-mlx {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    lab.add_argument("--dir", type=Path, help="folder for the notebooks (copied there if missing)")
    lab.add_argument("--no-browser", action="store_true", help="print the address only")
    lab.add_argument("--port", type=_port, help="port to listen on")
    lab.set_defaults(run=_lab)

    chat = commands.add_parser(
        "chat", help="talk to a model", epilog='For example: gemma4-mlx chat "Count from 3 to 9"'
    )
    chat.add_argument(
        "prompt", nargs="*", action="extend", default=[],
        help="what to say; without it, a conversation",
    )  # fmt: skip
    _model_options(chat)
    chat.add_argument("--system", help="instructions before the conversation")
    for kind in ("image", "audio", "video"):
        chat.add_argument(
            f"--{kind}", action="append", default=[], metavar="FILE", help=f"add this {kind}"
        )
    chat.add_argument(
        "--thinking", nargs="?", default=False, action=_Thinking, metavar="TOKENS",
        help="think first; with a number, in at most so many tokens",
    )  # fmt: skip
    chat.add_argument("--max-tokens", type=int, help="answer in at most so many tokens")
    chat.add_argument("--temperature", type=float, help="0 is greedy")
    chat.add_argument("--top-p", type=float, help="choose among the likeliest, of this share")
    chat.add_argument("--top-k", type=int, help="choose among so many of the likeliest")
    chat.add_argument("--seed", type=int, help="makes the answer reproducible")
    chat.add_argument("--schema", type=Path, metavar="FILE", help="JSON Schema of the answer")
    chat.add_argument(
        "--stats", action="store_true", help="tokens of each file, speed and memory, at the end"
    )
    chat.set_defaults(run=_chat)

    trace = commands.add_parser("trace", help="record routing and attention of a prompt")
    trace.add_argument("prompt", nargs="?", help="the text; - reads standard input")
    trace.add_argument("--file", type=Path, help="read the text from a file")
    _model_options(trace)
    trace.add_argument(
        "-o", "--out", type=Path, default=Path("trace.html"), metavar="FILE",
        help="a web page (.html, by default trace.html) or a trace to open again (.g4trace)",
    )  # fmt: skip
    trace.add_argument("--raw", action="store_true", help="the text alone, no chat format")
    trace.set_defaults(run=_trace)

    atlas = commands.add_parser("atlas", help="what every expert is for, over labelled texts")
    atlas.add_argument(
        "model", nargs="?", help="folder or hub repository; without it, what GEMMA4_MODEL names, "
        "or the teaching model",
    )  # fmt: skip
    atlas.add_argument("--bits", type=int, help="quantize while loading")
    atlas.add_argument("--adapter", help="folder or hub repository of an adapter for the model")
    atlas.add_argument(
        "--corpus", action="append", default=[], type=_corpus, metavar="LABEL=PATH",
        help="texts of one label: a file, a folder or a pattern; without any, texts that need no "
        "download (the teaching model's own domains for that)",
    )  # fmt: skip
    atlas.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FOLDER",
        help="where the atlas is kept; one that is there is gone on with",
    )  # fmt: skip
    atlas.add_argument("--tokens", type=int, default=1_000_000, help="1,000,000 without it")
    atlas.add_argument("--context", type=int, help="tokens read at once; 2048 without it")
    atlas.add_argument(
        "--answers", type=int, default=0, metavar="TOKENS",
        help="count the model's own answers to questions, too, of at most so many tokens",
    )  # fmt: skip
    _load_options(atlas)
    atlas.add_argument("--html", type=Path, metavar="FILE", help="write it as a page as well")
    atlas.set_defaults(run=_atlas)

    fit = commands.add_parser("fit", help="which model fits this machine")
    fit.add_argument(
        "model", nargs="?", help="e2b, e4b, 12b, 26b-a4b or 31b; without it, a table of all"
    )
    fit.add_argument("--bits", type=int, help="bits per weight; 4 without it, 16 is as released")
    fit.add_argument("--context", type=int, help="tokens of context; 8192 without it")
    fit.add_argument("--kv-bits", type=int, help="bits of full-attention keys and values (8, 4)")
    fit.add_argument("--memory", type=_gib, help="GiB of a Mac; without it, this machine")
    _place_options(fit)
    fit.set_defaults(run=_fit)

    verify = commands.add_parser("verify", help="prove a model on this machine, layer by layer")
    verify.add_argument(
        "model", nargs="?", help="folder or hub repository; without it, what GEMMA4_MODEL names, "
        "or the teaching model",
    )  # fmt: skip
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    verify.add_argument("--html", type=Path, metavar="FILE", help="write the result as a page")
    verify.set_defaults(run=_verify)

    check = commands.add_parser("check", help="what this machine has, and whether it works")
    check.set_defaults(run=_check)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="hub repository, fetched if it is not there, or folder; by default what "
        "GEMMA4_MODEL names, or the teaching model",
    )
    parser.add_argument("--bits", type=int, help="quantize while loading")
    parser.add_argument(
        "--adapter", help="folder or hub repository of a LoRA or DoRA adapter for the model"
    )
    _load_options(parser)


def _place_options(parser: argparse.ArgumentParser) -> None:
    for what, told in (("experts", "read when chosen"), ("layers", "read one after the other")):
        parser.add_argument(
            f"--{what}", choices=["memory", "disk"], default="memory",
            help=f"disk: leave {what} in the files, {told}; the answers are the same",
        )  # fmt: skip
    parser.add_argument(
        "--expert-memory", metavar="SIZE", help="for experts on disk, such as 4GB, that are held"
    )


def _load_options(parser: argparse.ArgumentParser) -> None:
    _place_options(parser)
    parser.add_argument(
        "--prepare", action="store_true",
        help="write experts that have to be converted before they are read from disk, once",
    )  # fmt: skip


class _Thinking(argparse.Action):
    """``--thinking``, ``--thinking 256``, and ``--thinking "a question"``, where what follows is
    what is said."""

    def __call__(self, parser, namespace, value, option=None):
        if value is None:
            namespace.thinking = True
        elif value.lstrip("-").isdigit():
            namespace.thinking = int(value)
        else:
            namespace.thinking = True
            namespace.prompt = [*namespace.prompt, value]


def _corpus(text: str) -> tuple[str, str]:
    label, mark, path = text.partition("=")
    if not (label and mark and path):
        raise argparse.ArgumentTypeError(f"{text!r} is no LABEL=PATH, such as code=src/")
    return label, path


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a number from 0 to 65535")
    return int(text)


def _gib(text: str) -> float:
    try:
        if 0 < float(text) < 1 << 20:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number of GiB, such as 24")


def _load(options: argparse.Namespace):
    from .checkpoints import load

    return load(
        options.model,
        bits=options.bits,
        adapter=options.adapter,
        prepare=options.prepare,
        **_places(options),
    )


def _places(options: argparse.Namespace) -> dict:
    """Where the weights are: arguments of ``load`` and ``fit``."""
    return {name: getattr(options, name) for name in ("experts", "expert_memory", "layers")}


# The commands


def _lab(options: argparse.Namespace) -> int:
    folder = notebooks_folder(options.dir)
    if shutil.which("jupyter-lab") is None and not _importable("jupyterlab"):
        raise Gemma4Error("JupyterLab is not installed: pip install jupyterlab")
    import subprocess

    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"]
    if (folder / START_NOTEBOOK).is_file():
        command.append(f"--LabApp.default_url=/lab/tree/{START_NOTEBOOK}")
    if options.no_browser:
        command.append("--no-browser")
    if options.port is not None:
        command.append(f"--port={options.port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container: Jupyter would refuse to start
        command.append("--allow-root")
    print(
        f"Your copy of the notebooks is in {folder}; what you change there is never overwritten "
        "(delete one to get it anew). Ctrl-C, twice, ends JupyterLab.",
        flush=True,
    )
    process = subprocess.Popen(command, env=kernel_environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # JupyterLab has it too; it asks, and ends its kernels
            pass


def kernel_environment() -> dict[str, str]:
    """The environment for JupyterLab. A folder that ``GEMMA4_MODEL`` names from here is named from
    the root, for kernels run in the notebooks' folder."""
    from .checkpoints.find import named_in_environment

    environment, named = dict(os.environ), named_in_environment()
    if named and (folder := Path(named).expanduser()).is_dir():
        environment["GEMMA4_MODEL"] = str(folder.resolve())
    return environment


def notebooks_folder(wanted: Path | None = None) -> Path:
    """The course's notebooks, where they can be changed.

    They are copied to ``wanted`` or to ``gemma4-notebooks`` in the current folder, also from a
    source checkout, whose own files would change with every run. What is there already is never
    overwritten.
    """
    package = Path(__file__).parent
    shipped = package / "notebooks"
    checkout = package.parent / "notebooks"
    source = checkout if checkout.is_dir() and any(checkout.glob("*.ipynb")) else shipped
    if not source.is_dir():
        raise Gemma4Error("this installation has no notebooks; they are in the repository.")
    folder = (wanted or Path("gemma4-notebooks")).expanduser().resolve()
    for file in sorted(file for pattern in COURSE for file in source.glob(pattern)):
        target = folder / file.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)
        except OSError as error:
            raise Gemma4Error(
                f"{folder} cannot be written ({error.strerror}); choose another with --dir"
            ) from None
    return folder


def _chat(options: argparse.Namespace) -> int:
    schema = None
    if options.schema is not None:
        try:
            schema = json.loads(options.schema.read_text("utf-8"))
        except OSError as error:
            raise Gemma4Error(f"{options.schema} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise Gemma4Error(f"{options.schema} is no JSON Schema: {error}") from None
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    sampling = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    from .chat import Chat

    chat = Chat(_load(options), system=options.system, thinking=options.thinking, options=sampling)
    media = (options.image, options.audio, options.video)
    if options.prompt or (any(media) and not sys.stdin.isatty()):
        text = " ".join(options.prompt) or None
        _answer(chat, text, media, schema, options.stats)
        return 0
    return _conversation(chat, media, schema, options.stats)


def _conversation(chat, media, schema, stats: bool) -> int:
    """Lines from standard input until it ends."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(
            f"{chat.model.source}. Ctrl-C stops an answer; /quit, Ctrl-D or Ctrl-C here ends.",
            file=sys.stderr,
        )
    while True:
        try:
            text = input("> " if interactive else "")
        except EOFError:
            return 0
        except UnicodeDecodeError as error:
            raise Gemma4Error(f"standard input cannot be read: {error}") from None
        if not text.strip():
            continue
        if text.strip().lower() in ("/quit", "/exit", "/bye"):
            return 0
        try:
            _answer(chat, text, media, schema, stats)
        except KeyboardInterrupt:
            if not interactive:
                raise
            print()
        media = ((), (), ())


def _answer(chat, text: str | None, media, schema, stats: bool) -> None:
    from .chat import Done, TextDelta, ThinkingDelta, ToolCall
    from .chat.rendering import media_of

    color = sys.stdout.isatty()
    thoughts = sys.stdout if color else sys.stderr  # a program that reads wants the answer alone
    thinking = False
    images, audio, videos = media
    for event in chat.stream(text, images, audio, videos, schema=schema):
        if isinstance(event, ThinkingDelta):
            text = f"\x1b[2m{event.text}\x1b[0m" if color else event.text
            print(text, end="", file=thoughts, flush=True)
            thinking = True
        elif isinstance(event, TextDelta):
            if thinking:
                print("\n", file=thoughts, flush=True)
                thinking = False
            print(event.text, end="", flush=True)
        elif isinstance(event, ToolCall):
            print(f"[calls {event.name} {event.arguments}]", flush=True)
        elif isinstance(event, Done):
            print(flush=True)
            cut = {"length": "max_tokens reached", "memory": "no memory for more"}
            if event.reply.finish_reason in cut:
                print(f"[{cut[event.reply.finish_reason]}]", file=sys.stderr)
            if event.reply.answered_in_thought:
                print("[it answered inside its thinking]", file=sys.stderr)
            if schema is not None:
                _ = event.reply.parsed  # an answer cut short is an error
            if stats:
                for part in media_of(chat.messages[-2:-1]):
                    medium = chat._media.load(part)
                    print(f"{medium.name}: {medium.n_soft} tokens", file=sys.stderr)
                s = event.reply.stats
                print(
                    f"{s.prompt_tokens} tokens read in {s.prefill_seconds:.2f} s, "
                    f"{s.generated_tokens} written at {s.tokens_per_second:.1f} tokens/s, "
                    f"peak memory {s.peak_memory / 1e9:.2f} GB"
                    + (f"; from disk {s.reads}" if s.reads else ""),
                    file=sys.stderr,
                )


def _trace(options: argparse.Namespace) -> int:
    if options.out.suffix not in (".html", ".g4trace"):
        raise Gemma4Error(f"{options.out}: the name must end in .html or .g4trace")
    if not options.out.parent.is_dir():
        raise Gemma4Error(f"{options.out.parent} is not a folder")
    if options.prompt is None and options.file is None:
        raise Gemma4Error('give a text to trace, as in `gemma4-mlx trace "Count from 3 to 9"`')
    if options.prompt is not None and options.file is not None:
        raise Gemma4Error("give a text or --file, not both")
    try:
        if options.file is not None:
            text = options.file.read_text("utf-8")
        else:
            text = sys.stdin.read() if options.prompt == "-" else options.prompt
    except (OSError, UnicodeDecodeError) as error:
        source = options.file or "standard input"
        raise Gemma4Error(f"{source} cannot be read: {error}") from None
    from .tracing import trace

    messages = [{"role": "user", "content": text}]
    result = trace(_load(options), text if options.raw else messages)
    if options.out.suffix == ".html":
        result.to_html(options.out)
    else:
        result.save(options.out)
    print(f"{len(result.tokens)} tokens traced, written to {options.out}")
    return 0


def _atlas(options: argparse.Namespace) -> int:
    from .studies import atlas, corpora

    given = dict(options.corpus)
    if len(given) < len(options.corpus):
        raise Gemma4Error("a label was given twice; a folder or a pattern takes several files")
    model = _load(options)
    if not given:
        given = corpora.teaching(model) if _is_teaching(model) else corpora.starter()
    named = {} if options.context is None else {"context": options.context}
    found = atlas(
        model, given, folder=options.out, tokens=options.tokens, answers=options.answers, **named
    )
    print(found)
    lifts = found.lifts()
    if len(found.labels) == 1:
        print("one label: there is nothing to compare it with")
    several = found.labels if len(found.labels) > 1 else ()
    for label, said in ((label, lifts.experts(label)) for label in several):
        best = ", ".join(f"layer {r['layer']} expert {r['expert']}" for r in said[:3])
        print(f"{label}: {len(said)} experts prefer it" + (f" ({best} most)" if best else ""))
    for label, sentences in found.remarks.items():
        for sentence in sentences:
            print(f"{label}: {sentence}", file=sys.stderr)
    print(f"written to {options.out}")
    if options.html is not None:
        print(f"written to {found.to_html(options.html)}")
    return 0


def _is_teaching(model) -> bool:
    from .teaching import CHECKPOINT

    return model.folder is not None and Path(model.folder).resolve() == CHECKPOINT.resolve()


def _fit(options: argparse.Namespace) -> int:
    from .checkpoints import print_fit

    given = {
        "bits": options.bits,
        "context": options.context,
        "kv_bits": options.kv_bits,
        "memory": options.memory,
        **_places(options),
    }
    print_fit(options.model, **{k: v for k, v in given.items() if v is not None})
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Exit status 1 where the model is not sound."""
    from .atomic import replacing
    from .verify import verify

    for file in (options.json, options.html):
        if file is not None and not file.parent.is_dir():
            raise Gemma4Error(f"{file.parent} is not a folder")
    report = verify(options.model, progress=lambda part: print(f"{part} ...", file=sys.stderr))
    print(report)
    for file, made in ((options.json, report.to_json), (options.html, report.to_html)):
        if file is not None:
            with replacing(file) as opened:
                opened.write(made().encode())
    return 0 if report.sound else 1


def _check(options: argparse.Namespace) -> int:
    from .checkpoints import machine_report

    print("\n".join(machine_report()))
    return 0


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


if __name__ == "__main__":
    sys.exit(main())
