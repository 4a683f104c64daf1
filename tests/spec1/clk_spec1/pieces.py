"""What the records name; imported when a run needs it."""

import numpy as np

from cl_kernel import ArraySamples, BadInput, Field, class_incremental, fingerprint


# ---- data sets
def build_rings(settings, site):
    rng = site.rng("rings")
    k = settings.n_classes
    spec = {
        "vector": Field(shape=(2,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=k),
    }

    def draw(n):
        labels = np.repeat(np.arange(k), n)
        angle = 2 * np.pi * labels / k
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * 3 + settings.noise * rng.standard_normal((k * n, 2))
        return ArraySamples(spec, {"vector": points.astype(np.float32), "class": labels})

    train, test = draw(settings.n_train), draw(settings.n_test)
    names = [f"ring{c}" for c in range(k)]
    return class_incremental(
        "rings",
        train,
        test,
        names,
        sizes=[2] * (k // 2 - 1) + [k - 2 * (k // 2 - 1)],
        task="vector -> class",
        shuffle=rng,
        fingerprint=fingerprint(train.arrays["vector"], test.arrays["vector"]),
    )


def build_rows(settings, site):
    from clk_spec1.plugin import ROWS

    raise BadInput(f"rows are never read, they lie at {site.locate(ROWS)}")


def prepare_rows(settings, site):
    return site.cache.make("rows", {"version": 1}, lambda folder: (folder / "rows.txt").write_text("1 2\n"))


# ---- model
def build_table(settings, fields, n_outputs, site):
    return 0.01 * site.rng("table").standard_normal((3, n_outputs))


# ---- memory
class Newest:
    def __init__(self, capacity):
        self.capacity, self.seen, self.groups = capacity, 0, np.zeros(capacity, np.int64)

    def __len__(self):
        return min(self.seen, self.capacity)

    @property
    def nbytes(self):
        return self.groups.nbytes

    def place(self, groups, rng):
        slots = np.arange(self.seen, self.seen + len(groups)) % self.capacity
        for slot, group in zip(slots, groups, strict=True):
            self.groups[slot] = group
        self.seen += len(groups)
        return slots

    def draw(self, n, rng, groups=None):
        among = np.arange(len(self))
        if groups is not None:
            among = among[np.isin(self.groups[: len(self)], groups)]
        return rng.permutation(among)[:n]

    def state(self):
        return {"seen": self.seen, "groups": self.groups.copy()}

    def load(self, state):
        self.seen, self.groups = state["seen"], state["groups"].copy()


def build_newest(settings, capacity):
    return Newest(capacity)


class Plain:
    def __init__(self, fields):
        self.fields = fields

    nbytes = 0

    def bytes_per_example(self):
        return sum(field.nbytes for field in self.fields.values())

    def allocate(self, capacity):
        return {name: np.zeros((capacity, *field.shape), field.dtype) for name, field in self.fields.items()}

    def encode(self, batch):
        return {name: batch[name] for name in self.fields}

    def decode(self, stored):
        return dict(stored)

    def state(self):
        return {}

    def load(self, state):
        pass


def build_plain(settings, fields, site):
    return Plain(fields)


def build_echo(settings, site):
    return lambda label, n: np.zeros((n, 2), np.float32)


# ---- metrics
class Share:
    def __init__(self, name, of):
        self.name, self.of = name, of

    def start(self):
        return {"n": 0, "counted": 0}

    def update(self, state, output, target):
        counted = int((np.argmax(output, 1) == target).sum() if self.of else (np.argmax(output, 1) != target).sum())
        return {"n": state["n"] + len(target), "counted": state["counted"] + counted}

    def merge(self, a, b):
        return {key: a[key] + b[key] for key in a}

    def compute(self, state, stage=None):
        return {self.name: state["counted"] / state["n"] if state["n"] else None}


def build_hits(settings, stream):
    return Share("hits", True)


def build_misses(settings, stream):
    return Share("misses", False)


# ---- learner
class Softmax:
    def __init__(self, settings, weights, memory, rng):
        self.settings, self.weights, self.memory, self.rng = settings, weights, memory, rng
        self.at = {"stage": -1, "epoch": 0, "step": 0, "order": None}

    def learn(self, stage, ctx):
        if self.at["stage"] != stage.index:
            self.at = {"stage": stage.index, "epoch": 0, "step": 0, "order": None}
        size = self.settings.batch_size
        ctx.phase("train")
        while self.at["epoch"] < self.settings.n_epochs:
            if self.at["order"] is None:
                self.at["order"] = self.rng.permutation(len(stage.train))
            while self.at["step"] * size < len(stage.train):
                rows = self.at["order"][self.at["step"] * size :][:size]
                new = stage.train.take(rows)
                batch = new
                if self.memory is not None and len(self.memory):
                    old = self.memory.sample(size)
                    batch = {name: np.concatenate([new[name], old[name]]) for name in new}
                self.descend(batch["vector"], batch["class"])
                if self.memory is not None and self.at["epoch"] == 0:
                    self.memory.add(new, new["class"])
                self.at["step"] += 1
                ctx.step(epoch=self.at["epoch"])
            self.at = {"stage": stage.index, "epoch": self.at["epoch"] + 1, "step": 0, "order": None}

    def scores(self, vectors):
        return np.concatenate([vectors, np.ones((len(vectors), 1))], 1) @ self.weights

    def descend(self, vectors, target):
        scores = self.scores(vectors)
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(target)), target] -= 1
        inputs = np.concatenate([vectors, np.ones((len(vectors), 1))], 1)
        self.weights = self.weights - self.settings.lr * inputs.T @ p / len(target)

    def predict(self, samples):
        for at in range(0, len(samples), 50):
            rows = np.arange(at, min(at + 50, len(samples)))
            yield {"scores": self.scores(samples.take(rows, ["vector"])["vector"])}

    def state(self):
        return {
            "weights": self.weights.copy(),
            "at": dict(self.at),
            "rng": self.rng.bit_generator.state,
            "memory": None if self.memory is None else self.memory.state(),
        }

    def load(self, state):
        self.weights, self.at = state["weights"].copy(), dict(state["at"])
        self.rng.bit_generator.state = state["rng"]
        if self.memory is not None:
            self.memory.load(state["memory"])


def build_learner(settings, parts):
    fields = dict(parts.stream.spec)
    weights = parts.model(fields, parts.stream.n_classes)
    memory = parts.memory(fields) if parts.memory else None
    return Softmax(settings, weights, memory, parts.site.rng("softmax"))


# ---- the rest
def run_count(ctx, settings):
    rng = ctx.rng("count")
    for _ in range(settings.upto):
        ctx.step()
    return {"counted": settings.upto, "drawn": float(rng.random())}


def build_hello(parser):
    parser.add_argument("--name", default="you")

    def handle(namespace, console):
        console.print(f"hello {namespace.name}")
        return 0

    return handle


def build_lines(folder):
    def tell(event):
        with (folder / "lines.txt").open("a") as file:
            file.write(type(event).__name__ + "\n")

    return tell


class Here:
    def map(self, tasks, n_jobs):
        from cl_kernel.sweep import run_task

        for index, task in enumerate(tasks):
            yield index, run_task(task)


def build_here(options):
    return Here()
