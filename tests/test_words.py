"""One term for one thing: words that this project once used in its own sense do not come back in the texts that users read."""

import ast
import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from vestige.bench import cli
from vestige.bench.contract.flags import FLAGS
from vestige.bench.places import CHECKOUT


@dataclass(frozen=True)
class Word:
    pattern: str
    use: str  # the field's term
    allowed: str = ""  # the same letters in another sense
    example: str = ""  # a text that must be found


WORDS = (
    Word(r"\bpictures?\b", "image", example="share of pictures"),
    Word(r"\bprobes?\b", "evaluation split", r"([Ll]inear|[Nn]oise)\s+probes?", "the target probe"),
    Word(r"\bmechanisms?\b", "intervention", example="mechanism: weights"),
    Word(r"\bremovable\b", "detachable", example="spm (removable)"),
    Word(r"\bladders?\b|\bladder_\w+", "budget sweep", example="ladder_of"),
    Word(r"\brungs?\b", "budget", example="the last rung"),
    Word(r"\bCourses?\b", "trajectory", example="a Course of its own"),
    Word(r"\bMaterial\b", "MetricContext, TrainingImages", example="score(images, Material)"),
    Word(r"\bPictures\b", "ScoreTable", example="Pictures(store)"),
    Word(r"\b\w*unet_rows\b", "forward_rows", example="attack_unet_rows"),
    Word(r"\bstandings?\b", "ranking", example="the standing"),
    Word(r"\bplane\b", "Pareto front", example="erased-kept plane"),
    Word(r"\b[Vv]iews?\b", "aggregate score", example="Views on the stored scores"),
    Word(r"\b[Gg]uards?\b", "collapse check", example="a guard is broken"),
    Word(r"\bdoubts\b", "warnings", example="doubts: few prompts"),
    Word(r"\brefusals?\b|\bwhy_not\b", "unsupported reason", example="a refusal"),
    Word(r"\blearn(t|ed) words?\b|\bknowing\b", "learned token", r"worth knowing", "a learnt word"),
    Word(r"\btold_states\b", "prompt embeddings", example="told_states"),
    Word(r"\bpreparing\b", "before_denoiser", example="pipe.preparing"),
    Word(r"\bplace by place\b", "position by position", example="place by place"),
    Word(r"\bnet\b", "headline score", r"neural net|net=\w+|\w+\.net\b", "ranked by net"),
    Word(r"\b[Bb]esides?\b", "next to, in addition to, compared with", example="ours beside theirs"),
    # Phrases that a reader has to read twice.
    Word(r"\binvention\b", "what an attack elicits from the oracle", example="the attack's own invention"),
    Word(r"\bin peace\b", "uninterrupted", example="a run in peace"),
    Word(r"\bnot to be told\b|\btold (apart|from)\b", "no significant difference; identified by", example="not to be told from zero"),
    Word(r"\bno record needs\b", "no record refers to", example="what no record needs"),
    Word(r"\bluck\b", "fresh seeds, chance", example="luck had less budget"),
)
QUOTED = re.compile(r'"[^"\n]*"|`[^`\n]*`')  # prompts, commands, names: not the project's own prose


def found(text: str, quotes: bool = True) -> list[str]:
    """The words of the list in a text, each with what to write instead; quotes: leave out what stands in quotation marks."""
    text = QUOTED.sub(" ", text) if quotes else text
    hits = []
    for word in WORDS:
        own = re.sub(word.allowed, " ", text) if word.allowed else text
        hits += [f"{hit[0]!r} (use: {word.use}) in: {_line(own, hit.start())}" for hit in re.finditer(word.pattern, own)]
    return hits


def _line(text: str, at: int) -> str:
    return text[text.rfind("\n", 0, at) + 1 :].split("\n", 1)[0].strip()[:120]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.use)
def test_the_list_finds_each_word(word):
    assert any(f"use: {word.use}" in hit for hit in found(word.example))


@pytest.mark.parametrize(
    "text",
    [
        "a linear probe reads it",
        'prompts such as "a picture of a dog"',
        "the noise probe with the paper's grid",
        "an airplane",
        "neural net",
    ],
)
def test_other_senses_and_quoted_prompts_are_allowed(text):
    assert found(text) == []


PAGES = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("results/*/README.md"), CHECKOUT / "bench/world/MODEL_CARD.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_pages(page):
    assert found(re.sub(r"```.*?```", " ", page.read_text(), flags=re.DOTALL)) == []


def _help(words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main(words)
    return out.getvalue()


BY_HYDRA = ("run", "plan")  # their -h lists the configuration
HELP = [["--help"], *([verb, "-h"] for verb in cli.VERBS if verb not in BY_HYDRA)]
HELP += [["world", part, "-h"] for part in ("build", "train", "retrain", "card", "judges")]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help(words):
    text = _help(words)
    assert "usage" in text and found(text) == []


def test_flags():
    for name, flag in FLAGS.items():
        assert found(f"{name}\n{flag.raised_if}\n{flag.means}\n{flag.do}") == []


FOLDERS = ("conf", "prompts", "bench")


def comments(text: str) -> str:
    """The comments of a YAML file: after a # that begins a line or follows a space."""
    return "\n".join(line[1] for line in re.finditer(r"(?:^|\s)#(.*)", text))


def test_yaml_comments():
    files = [file for folder in FOLDERS for file in sorted((CHECKOUT / folder).rglob("*.yaml"))]
    hits = {str(file.relative_to(CHECKOUT)): hits for file in files if (hits := found(comments(file.read_text())))}
    assert len(files) > 300 and hits == {}


def strings(file: Path, raised: bool) -> str:
    """The string constants of a module without its docstrings; raised: only those in `raise` statements."""
    tree = ast.parse(file.read_text())
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, owners) and ast.get_docstring(node) is not None}
    inside = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)] if raised else [tree]
    texts = (part for node in inside for part in ast.walk(node) if isinstance(part, ast.Constant) and id(part) not in docs)
    return "\n".join(part.value for part in texts if isinstance(part.value, str))


def test_heads_and_captions_of_reports():
    files = [file for folder in ("reports", "papers") for file in sorted((CHECKOUT / "bench" / folder).glob("*.py"))]
    hits = {file.name: hits for file in files if (hits := found(strings(file, raised=False)))}
    assert len(files) > 20 and hits == {}


def test_error_sentences():
    files = [file for folder in ("bench", "methods", "attacks", "metrics") for file in sorted((CHECKOUT / folder).rglob("*.py"))]
    hits = {str(file.relative_to(CHECKOUT)): hits for file in files if (hits := found(strings(file, raised=True)))}
    assert len(files) > 150 and hits == {}
