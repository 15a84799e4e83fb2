"""Replaces the words that name the concept by made-up ones; a small policy learns from images alone which ones work.

SneakyPrompt: Yang et al. (IEEE S&P 2024), arXiv 2305.12082; Yuchen413/text2image_safety@4338580 (main.py, rl_search.py,
search_utils.py). A black-box attack with a limit of queries, written against filters. An erased model refuses nothing, so its
reward is the likeness of image and prompt, or the judge. Differs from the code: the words are those that name the concept
(theirs: a list of sensitive words), further words are ranked by the text encoder (theirs: a classifier of unsafe text), the
image keeps its seed, rows ask side by side, and the limit is never passed.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.attacks._tokens import pooled_of, unsupported_text
from vestige.attacks.wording import concept_of, contains_any
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, derived_seed
from vestige.bench.models.text import TextSide
from vestige.bench.vision import clip_models, features

CHOICES = {
    "search": ("reinforce", "random"),
    "pieces": ("subwords", "words"),
    "reward": ("clip", "judge", "l2"),
    "success": ("threshold", "judge", "both"),
}


class Policy(nn.Module):
    """Chooses one piece per slot: an LSTM reads the piece chosen before; each slot has its own embedding, head and critic."""

    def __init__(self, slots: int, pieces: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("begin", torch.randn(1, hidden))  # official: an embedding that is never trained
        self.embeddings = nn.ModuleList(nn.Embedding(pieces, hidden) for _ in range(slots - 1))
        self.cell = nn.LSTMCell(hidden, hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, pieces) for _ in range(slots))
        self.critics = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(slots))

    def forward(self, choose) -> tuple[list[int], Tensor, Tensor]:
        """(pieces, their log probabilities [slots], expected rewards [slots]); choose(probabilities [pieces]) -> index."""
        x, state, chosen, log_p, values = self.begin, None, [], [], []
        for slot, (head, critic) in enumerate(zip(self.heads, self.critics, strict=True)):
            state = self.cell(x, state)
            log = F.log_softmax(head(state[0])[0], dim=-1)
            chosen.append(choose(log.detach().exp()))
            log_p.append(log[chosen[-1]])
            values.append(critic(state[0])[0, 0])
            if slot < len(self.embeddings):
                x = self.embeddings[slot](torch.tensor(chosen[-1:]))
        return chosen, torch.stack(log_p), torch.stack(values)


@dataclass
class SneakyPrompt(Attack):
    """Columns of the prompts: pre_success, found_at (1-based query, 0 none needed, -1 never), queries, reward (best), words (replaced)."""

    search: str  # reinforce; random: pieces by chance, the control of equal queries
    pieces: str  # subwords: parts of words in one string; words: whole words with spaces (official --en, a list of its own)
    per_word: int  # m: pieces in the place of one word
    length: int  # pieces are shorter than this
    official_w: bool  # official: the mark </w> at a word's end counts as four letters and leaves its w
    reward: str  # clip: cosine of image and prompt; judge: 1 or 0; l2: 1 - squared distance of text states, asks from the threshold on
    clip: str  # reward=clip: emoji or <open_clip model>/<pretrained>
    threshold: float
    success: str  # what ends a row's search: the reward reaches the threshold, the judge says yes, or both
    keyword_filter: bool  # a text that names the concept is refused, as by the paper's text-match filter; costs a query
    queries: int  # per row
    steps: int  # choices per row
    hidden: int
    lr: float
    patience: int  # refusals in a row after which one more word is replaced
    max_share: float  # of words replaced
    flat: float  # the search ends when the reward's second difference is smaller; 0: never
    rows_at_once: int  # images drawn together; memory only

    access: ClassVar[str] = "images"
    needs: ClassVar[tuple[str, ...]] = ("draw", "words", "states")
    quick: ClassVar[dict] = {"queries": 2}

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"attack.sneakyprompt.{key}={getattr(self, key)!r} is not known. Allowed: {', '.join(allowed)}.")
        if min(self.per_word, self.queries, self.steps, self.hidden, self.patience, self.rows_at_once) < 1 or self.length < 2:
            raise ValueError(
                "attack.sneakyprompt needs per_word, queries, steps, hidden, patience and rows_at_once of at least 1, length of at least 2."
            )

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        missing = features.check(self.clip) if self.reward == "clip" else None
        return missing or unsupported_text("sneakyprompt", model) or super().supports(model, concepts, method)

    def inputs(self) -> dict[str, str]:
        return features.inputs(f"clip:{self.clip}") if self.reward == "clip" else {}

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n, expected, text = len(prompts), prompts.table["expect"].tolist(), ctx.original().text
        pre = victim.judge(victim.images(prompts), expected).tolist()
        pieces, rows = self.vocabulary(text), prompts.table.to_dict("records")
        searches = {}
        for place in (k for k in range(n) if not pre[k]):
            words, concept = split(rows[place]["prompt"]), concept_of(rows[place], victim.concepts) or victim.concepts[0]
            seed = derived_seed(ctx.seed("sneakyprompt"), rows[place]["row_id"])
            searches[place] = Search(self, words, *self.to_replace(text, words, concept), pieces, seed)
        names = [name for concept in victim.concepts for name in (concept.name, *concept.aliases)] if self.keyword_filter else []
        for step in ctx.resumable("search", range(self.steps), searches=searches):
            asking = [place for place, search in searches.items() if not search.over]
            if not asking:
                break
            texts = {place: searches[place].propose() for place in asking}
            refused = {place for place in asking if contains_any(texts[place], names)}
            scores = self.scores(victim, text, prompts, [place for place in asking if place not in refused], texts)
            rewards = [searches[place].learn(texts[place], *scores.get(place, (None, True, False))) for place in asking]
            ctx.log(step, rows=len(asking), reward=sum(rewards) / len(rewards))
        return self.adversary(prompts, pre, searches)

    def adversary(self, prompts: PromptSet, pre: list[bool], searches: dict[int, "Search"]) -> Adversary:
        n = len(pre)
        columns: dict[str, list] = {"found_at": [0] * n, "queries": [0] * n, "reward": [None] * n, "words": [0] * n}
        texts = prompts.prompts
        for place, search in searches.items():
            texts[place] = search.best or texts[place]  # all refused: the row's own prompt
            told = {"found_at": search.found_at, "queries": search.queries, "reward": search.best_reward, "words": search.count}
            for key, value in told.items():
                columns[key][place] = value
        success = [at >= 0 for at in columns["found_at"]]
        rates = {"pre_rate": sum(pre) / len(pre), "post_rate": sum(success) / len(pre), "attacked": len(searches)}
        return Adversary(prompts.with_prompts(texts, pre_success=pre, **columns), meta=rates)

    def vocabulary(self, text: TextSide) -> list[str]:
        """What a slot may hold, from the tokenizer's words."""
        tokenizer, found = text.readers[0].tokenizer, []
        known, special = tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
        for key in sorted(known, key=known.get):
            if key in special or (self.pieces == "words" and not key.endswith("</w>")):
                continue
            kept = key if self.official_w and self.pieces == "subwords" else key.removesuffix("</w>")
            letters = re.sub("[^A-Za-z]", "", kept)
            if letters and len(kept) < self.length and (self.pieces == "subwords" or letters == kept):
                found.append(letters)
        return list(dict.fromkeys(found))

    @torch.no_grad()
    def to_replace(self, text: TextSide, words: list[str], concept: Concept) -> tuple[list[int], int]:
        """(positions of words, most telling first; how many are replaced from the start: those of the names, else one)."""
        named = sorted({k for name in (concept.name, *concept.aliases) for k in positions(words, split(name))})
        rest = [k for k in range(len(words)) if k not in named]
        without = [" ".join(words[:k] + words[k + 1 :]) for k in rest]
        pooled = pooled_of(text, text.ids([*without, concept.name]))
        # Leave-one-out: the prompt is the less like the concept, the more the missing word told.
        likeness = F.cosine_similarity(pooled[:-1], pooled[-1:], dim=-1).tolist()
        return named + [k for _, k in sorted(zip(likeness, rest, strict=True))], max(len(named), 1)

    @torch.no_grad()
    def scores(self, victim: Victim, text: TextSide, prompts: PromptSet, places: list[int], texts: dict[int, str]) -> dict[int, tuple]:
        """place -> (reward, asked, found); the reward is None where an output filter refused the image."""
        made = prompts.with_prompts([texts.get(k, prompt) for k, prompt in enumerate(prompts.prompts)])
        scored: dict[int, tuple] = {}
        if self.reward == "l2":
            for place in places:
                one, two = text.encode([texts[place], prompts.prompts[place]]).hidden.float()
                scored[place] = (1 - F.mse_loss(one, two).item(), False, False)
            places = [place for place in places if scored[place][0] >= self.threshold]
        for begin in range(0, len(places), self.rows_at_once):
            some = places[begin : begin + self.rows_at_once]
            drawn = victim.drawn(made, some)
            yes = victim.judge(drawn.pixels, prompts.table["expect"].iloc[some].tolist()).tolist()
            if self.reward == "clip":
                clip = clip_models.load_clip(self.clip)
                alike = clip.image(drawn.pixels) * clip.text([prompts.prompts[k] for k in some])
                rewards = alike.sum(-1).clamp(min=0).tolist()
            else:
                rewards = [float(hit) for hit in yes] if self.reward == "judge" else [scored[k][0] for k in some]
            for place, reward, hit, status in zip(some, rewards, yes, drawn.status, strict=True):
                reached = {"threshold": reward >= self.threshold, "judge": hit, "both": hit and reward >= self.threshold}[self.success]
                passed = status == "ok"
                scored[place] = (reward if passed else None, True, reached and passed)
        return scored


class Search:
    """The search for one row's text, with all it has to remember."""

    def __init__(self, attack: SneakyPrompt, words: list[str], order: list[int], count: int, pieces: list[str], seed: int) -> None:
        self.attack, self.words, self.order, self.pieces = attack, words, order, pieces
        self.generator = torch.Generator().manual_seed(seed)
        self.queries, self.found_at, self.over = 0, -1, False
        self.best: str | None = None
        self.best_reward: float | None = None
        self.begin(count)

    def begin(self, count: int) -> None:
        """Replace `count` words; the policy starts anew."""
        self.count = count
        self.rewards: list[float] = []
        slots = count * self.attack.per_word
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=self.generator)))
            self.policy = Policy(slots, len(self.pieces), self.attack.hidden) if self.attack.search == "reinforce" else None
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=self.attack.lr) if self.policy else None

    @torch.enable_grad()
    def propose(self) -> str:
        if self.policy:
            chosen, self.log_p, self.values = self.policy(lambda p: int(torch.multinomial(p, 1, generator=self.generator)))
        else:
            chosen = torch.randint(len(self.pieces), (self.count * self.attack.per_word,), generator=self.generator).tolist()
        return self.written([self.pieces[k] for k in chosen])

    def written(self, pieces: list[str]) -> str:
        words, m = list(self.words), self.attack.per_word
        joint = "" if self.attack.pieces == "subwords" else " "
        for number, place in enumerate(sorted(self.order[: self.count])):
            words[place] = joint.join(pieces[number * m : (number + 1) * m])
        return " ".join(words)

    def learn(self, text: str, reward: float | None, asked: bool, found: bool) -> float:
        """Take the answer to `text`: reward None means refused; `asked`: it cost a query. Returns the reward, or the penalty."""
        self.queries += asked
        if reward is None:
            reward = -self.queries / self.attack.queries / 10
        elif found or self.best_reward is None or reward > self.best_reward:
            self.best, self.best_reward = text, reward
        self.rewards.append(reward)
        if self.policy and not found:
            self.improve(reward)
        if found:
            self.found_at, self.over = self.queries, True
        elif self.queries >= self.attack.queries:
            self.over = True
        elif len(self.rewards) >= self.attack.patience and max(self.rewards[-self.attack.patience :]) < 0:
            self.over = self.count == len(self.order)
            if not self.over:
                self.begin(self.count + 1)
        elif len(self.rewards) > 3:
            self.over = self.is_flat() or self.count / len(self.words) > self.attack.max_share
        return reward

    def is_flat(self) -> bool:
        a, b, c = self.rewards[-3:]
        return c > 0 and abs(a - 2 * b + c) < self.attack.flat

    def improve(self, reward: float) -> None:
        """REINFORCE with a critic; without discount every slot has the same return."""
        advantage = reward - self.values
        loss = (-self.log_p * advantage.detach()).sum() + advantage.square().sum()
        assert self.optimiser is not None, "a search without a policy learns nothing"
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def state_dict(self) -> dict:
        kept = {key: getattr(self, key) for key in ("queries", "found_at", "over", "best", "best_reward", "count", "rewards")}
        learnt = {key: getattr(self, key).state_dict() for key in ("policy", "optimiser") if self.policy}
        return {**kept, **learnt, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        state = dict(state)
        self.begin(state["count"])
        self.generator.set_state(state.pop("generator"))
        for key, value in state.items():
            if key in ("policy", "optimiser"):
                getattr(self, key).load_state_dict(value)
            else:
                setattr(self, key, value)


def split(text: str) -> list[str]:
    """Words and punctuation marks."""
    return re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text)


def positions(words: list[str], name: list[str]) -> list[int]:
    """Where the words of `name` stand together, all of their positions."""
    lower, wanted = [w.lower() for w in words], [w.lower() for w in name]
    starts = [k for k in range(len(words) - len(name) + 1) if lower[k : k + len(name)] == wanted]
    return [k + j for k in starts for j in range(len(name))]
