"""Train the teaching model from nothing: `python -m gemma4_mlx.teaching.train`.

    python -m gemma4_mlx.teaching.train --work build/teaching        # the whole thing
    python -m gemma4_mlx.teaching.train --steps 200 --smoke          # a short check
    python -m gemma4_mlx.teaching.train --after FOLDER --stage border   # this stage and the rest

Some stages begin from the weights as they are exported, so that they and those behind them can
also follow an earlier run of the stages before them. Seeded; killed at any time it goes on from
its last checkpoint in the work folder when started again. Every step's samples depend on the seed
and the step's number alone. The result is an ordinary Gemma 4 checkpoint folder (export.py).
"""

import argparse
import os
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

from .. import _blas

if __name__ == "__main__":
    _blas.restart_without_openblas()

import numpy as np
import torch
from tokenizers import Tokenizer

from . import CHECKPOINT, data, export, reference, schedule, tokenizer
from .listen import Listen
from .look import Look
from .optimizer import Optimizer
from .parts import Parts

TOKENS = 1800  # per step
MICRO = 2400  # padded tokens per micro-batch
ALONE = {readout.stage: readout for readout in (Look, Listen)}  # stages of one tower alone
SMOKE = schedule.Stage("smoke", 0, (1.0, 1.0), {"code": 0.7, "chat": 0.2, "needle": 0.1})


def get_tokenizer(work: Path) -> Tokenizer:
    """Built from the corpus once, then kept in the work folder."""
    path = work / "tokenizer.json"
    if not path.exists():
        tokenizer.build(data.corpus(), data.whole_words()).save(str(path))
    return Tokenizer.from_file(str(path))


class Trainer:
    def __init__(self, stream, work: Path, seed: int, steps: int, smoke=False, tokens=TOKENS):
        self.stream, self.work, self.steps, self.smoke = stream, work, steps, smoke
        self.tokens = tokens
        self.model = reference.build(seed)
        reference.use_fast_norms(self.model)
        self.routing = reference.Routing(self.model)
        self.looking = reference.Looking(self.model)
        self.parts = Parts(self.model)
        self.optimizer = Optimizer(self.model)
        self.alone = None  # the readout of a tower, while that trains alone
        self.before = None  # the weights before a stage that is averaged in
        self.step = 0
        self.seconds = 0.0
        self.stopping = False  # a polite kill: save first
        self.losses = defaultdict(list)  # domain -> recent losses per learned token

    # Checkpoints ---------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.work / "state.pt"

    def save(self) -> None:
        state = {
            "step": self.step, "seconds": self.seconds, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "load": self.routing.load,
        }  # fmt: skip
        if self.before:
            state["before"] = self.before
        if self.alone:
            state["alone"] = (self.alone.stage, self.alone.state())
        torch.save(state, self.path.with_suffix(".new"))
        os.replace(self.path.with_suffix(".new"), self.path)

    def resume(self) -> bool:
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.routing.load = state["load"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.before = state.get("before")
        if "alone" in state:
            name, readout = state["alone"]
            self.alone = ALONE[name](self.model, self.stream)
            self.alone.load_state(readout)
        return True

    # Training ------------------------------------------------------------------------------

    def one_step(self) -> dict:
        stage, rate = schedule.stage_at(self.step, self.steps)
        if self.smoke:
            stage = SMOKE
        elif not stage.mix:
            return self.one_alone(stage, rate)
        self.alone = None
        if stage.averaged and not self.before:
            self.before = {name: value.clone() for name, value in self.model.state_dict().items()}
        elif self.before and not stage.averaged:
            self.average()
        for tower in (self.model.model.vision_tower, self.model.model.audio_tower):
            tower.requires_grad_(not stage.frozen)
        if schedule.stage_at(self.step - 1, self.steps)[0] is not stage:
            if stage.fresh:
                self.refresh()
            if stage.revived:
                self.revive(stage)
        samples = self.stream.step(self.step, schedule.weights(stage), self.tokens)
        learned = sum(sum(s.learn) for s in samples)
        looks = sum(len(s.looks) for s in samples)
        missing = None
        if stage.parts:
            rng = np.random.default_rng((self.stream.seed, self.step))
            missing = self.parts.draw(samples, rng, stage.headless)
        total = 0.0
        for batch in data.batches(samples, MICRO):
            self.parts.take(missing, batch)
            loss, each, domain = reference.loss(self.model, batch)
            routes = self.routing.collected(batch["domain"])
            balance, entropy = self.routing.losses(routes, batch["domain"])
            share = batch["learn"].sum() / learned
            loss = loss / learned
            total += loss.item()
            loss = loss + share * (stage.balance * balance + stage.domains * entropy)
            if stage.parts:
                loss = loss + share * stage.parts * self.parts.assigned(routes, batch)
            if stage.looking and "looking" in batch:
                weight = stage.looking * len(batch["looking"]) / looks
                loss = loss + weight * self.looking.loss(batch)
            loss.backward()
            for d in domain.unique().tolist():
                self.losses[data.DOMAINS[d]].append(each[domain == d].mean().item())
        self.optimizer.step(rate)
        self.optimizer.zero_grad(self.model)
        self.step += 1
        return {"stage": stage.name, "loss": total, "tokens": sum(len(s.ids) for s in samples)}

    @torch.no_grad()
    def revive(self, stage, steps: int = 8) -> None:
        """Look at some steps' routing, and give experts without tokens some."""
        seen = []
        for number in range(self.step, self.step + steps):
            samples = self.stream.step(number, schedule.weights(stage), self.tokens)
            for batch in data.batches(samples, MICRO):
                self.parts.take(None, batch)
                reference.loss(self.model, batch)
                seen.append(self.routing.collected(batch["domain"]))
        revived = self.routing.revive(torch.cat(seen, 1))
        print(f"\nexperts given tokens (layer, expert): {revived}", flush=True)

    def one_alone(self, stage, rate: float) -> dict:
        """A step of one tower alone."""
        if not isinstance(self.alone, ALONE[stage.name]):
            self.alone = ALONE[stage.name](self.model, self.stream)
        self.alone.tower.requires_grad_(True)
        rng = np.random.default_rng((self.stream.seed, self.step))
        loss, told = self.alone.step(rng, rate)
        self.losses[stage.name].append(loss)
        self.step += 1
        return {"stage": f"{stage.name} ({told:.0%} told)", "loss": loss, "tokens": 0}

    def run(self, every: float = 300, export_every: float = 1200, folder=None) -> None:
        """Train to the end; a checkpoint every five minutes, the folder every twenty."""
        saved = exported = start = time.monotonic()
        before = self.seconds
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        while self.step < self.steps:
            report = self.one_step()
            now = time.monotonic()
            self.seconds = before + now - start
            if not np.isfinite(report["loss"]):
                raise SystemExit(f"the loss is {report['loss']} at step {self.step}")
            if self.step % 10 == 0 or self.step == self.steps:
                self.show(report)
            if now - saved > every or self.stopping:
                self.save()
                saved = now
            if self.stopping:
                raise SystemExit("stopped; start again to go on")
            if folder and now - exported > export_every:
                self.export(folder)
                exported = now
        if self.before:
            self.average()
        self.save()

    @torch.no_grad()
    def average(self) -> None:
        """The mean of before and after a stage: what it taught, less of what it cost."""
        for name, value in self.model.named_parameters():
            value.lerp_(self.before[name], 0.5)
        self.before = None
        self.optimizer = Optimizer(self.model)  # its momentum was other weights'

    @torch.no_grad()
    def refresh(self) -> None:
        """Begin a stage with what a checkpoint folder holds, and no more."""
        for value in self.model.state_dict().values():
            value.copy_(value.to(torch.bfloat16))
        self.optimizer = Optimizer(self.model)
        self.routing.load = None

    def begin_after(self, folder: Path, stage: schedule.Stage) -> None:
        """Take the weights of a checkpoint whose training ended where a fresh stage begins."""
        from safetensors.torch import load_file

        missing, unknown = self.model.load_state_dict(
            load_file(folder / "model.safetensors"), strict=False
        )
        if unknown or set(missing) - {"lm_head.weight"}:  # tied to the embedding
            raise SystemExit(f"{folder} is no teaching model: {[*missing, *unknown]}")
        self.step = schedule.first_step(stage)

    def export(self, folder: Path) -> None:
        size = export.export(self.model, self.stream.encode.tokenizer, folder)
        print(f"exported {size / 1e6:.1f} MB at step {self.step}", flush=True)

    def show(self, report) -> None:
        """A progress bar in a terminal, a line in a log."""
        done = self.step / self.steps
        left = self.seconds / max(self.step, 1) * (self.steps - self.step)
        for values in self.losses.values():
            del values[:-100]
        recent = " ".join(f"{d[:5]} {np.mean(v):.2f}" for d, v in sorted(self.losses.items()))
        bar = ("#" * int(24 * done)).ljust(24, ".")
        line = (
            f"[{bar}] {self.step}/{self.steps} {report['stage']} loss {report['loss']:.3f} "
            f"| {recent} | {self.seconds / 60:.0f} min, {left / 60:.0f} left"
        )
        terminal = sys.stdout.isatty()
        print(("\r" if terminal else "") + line, end="" if terminal else "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/teaching"), help="work folder")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=schedule.STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--after", type=Path, help="go on from this checkpoint, with --stage")
    parser.add_argument("--stage", choices=schedule.FRESH, default=list(schedule.FRESH)[-1])
    parser.add_argument("--smoke", action="store_true", help="text only, and write nothing")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pools = {} if arguments.smoke else schedule.POOLS
    tok = tokenizer.load(arguments.after) if arguments.after else get_tokenizer(arguments.work)
    stream = data.Stream(tok, arguments.seed, pools, arguments.work)
    trainer = Trainer(stream, arguments.work, arguments.seed, arguments.steps, arguments.smoke)
    print(f"{reference.parameters(trainer.model):,} parameters", flush=True)
    if arguments.smoke:
        trainer.run(every=1e9)
        return
    if trainer.resume():
        print(f"going on at step {trainer.step}", flush=True)
    elif arguments.after:
        trainer.begin_after(arguments.after, schedule.FRESH[arguments.stage])
    trainer.run(folder=arguments.out)
    trainer.export(arguments.out)


if __name__ == "__main__":
    main()
