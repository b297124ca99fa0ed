"""The adapter on tasks of our own whose data lies in a file, each number against direct scoring."""

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tandem
from tandem import hub
from tandem.data import Tokenizer
from tandem.evaluate import EvaluateConfig, Subject, run_evaluation
from tandem.nn import HybridLM
from tandem.serve import chat_ids

QUESTIONS = [(f"What is {k} plus {k + 1}?", [str(2 * k + 1), "a banana", f"{k} apples"], k % 3) for k in range(7)]


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.api.model", raising=False)
    monkeypatch.delitem(sys.modules, "tandem.evaluate.lm_eval", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'tandem-lm\[eval\]'"):
        importlib.import_module("tandem.evaluate.lm_eval")


@pytest.fixture(scope="module")
def adapter() -> Any:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'tandem-lm[eval]'")
    return importlib.import_module("tandem.evaluate.lm_eval")


@pytest.fixture(scope="module")
def model(make_model: Callable[..., HybridLM], tokenizer: Tokenizer) -> tandem.LanguageModel:
    made = make_model(context=64)
    return tandem.LanguageModel(made, tokenizer, made.config)


@pytest.fixture(scope="module")
def reader(model: tandem.LanguageModel) -> Subject:
    return Subject(model=model.model, tokenizer=model.tokenizer)


class Request:
    def __init__(self, *args: Any) -> None:
        self.args = args


def direct(model: tandem.LanguageModel, context: str, continuation: str) -> float:
    """By the façade: what the whole has more than the context. Only where no token crosses the border."""
    whole = float(model.score(context + continuation).double().sum())
    return whole - (float(model.score(context).double().sum()) if context else 0.0)


def test_loglikelihoods_are_differences_of_scores(adapter: Any, model: tandem.LanguageModel, reader: Subject):
    pairs = [(f"Question: {ask}\nAnswer:", f" {choice}") for ask, choices, _ in QUESTIONS for choice in choices]
    pairs += [("", "Why 42?"), ("Why?", "")]
    found = adapter.TandemLM(reader, batch=3).loglikelihood([Request(*pair) for pair in pairs])
    for (context, continuation), (logp, greedy) in zip(pairs, found, strict=True):
        assert logp == pytest.approx(direct(model, context, continuation), abs=2e-4)
        if continuation:
            written = model.generate(context, temperature=0, max_tokens=1).text if context else None
            assert greedy is False or continuation.startswith(str(written))


def test_greedy_is_what_decoding_writes(adapter: Any, model: tandem.LanguageModel, reader: Subject):
    prompt = "Question: Why?\nAnswer:"
    asked = model.prompt_ids(prompt)
    (done,) = reader.answers([asked], max_tokens=4)
    ids = model.tokenizer.text_ids(prompt + done.text)
    assert ids[: len(asked)] == asked
    found = adapter.TandemLM(reader).loglikelihood([Request(prompt, done.text), Request(prompt, " no" + done.text)])
    written = list(model.tokenizer.encode(done.text))
    # Only when the text gives the ids again that were written can the two agree.
    if ids[len(asked) :] == written and len(written) == done.tokens:
        assert found[0][1]
    assert not found[1][1]


def test_rolling_windows_are_those_of_lm_eval(adapter: Any, model: tandem.LanguageModel, reader: Subject):
    utils = importlib.import_module("lm_eval.utils")
    texts = ["Why 42? " * 30, "Returns the name.", ""]
    expected = []
    for text in texts:
        ids, total = model.tokenizer.encode(text), 0.0
        cut = utils.get_rolling_token_windows(ids, prefix_token=1, max_seq_len=64, context_len=1)
        for inputs, targets in cut:
            row = [*inputs, targets[-1]]
            (scores,) = reader.scores([row], [len(row) - len(targets)])
            total += float(scores.logp_T.double().sum())
        expected.append(total)
    found = adapter.TandemLM(reader).loglikelihood_rolling([Request(text) for text in texts])
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("overlap", [0, 5, 31])
def test_our_windows_are_those_of_lm_eval(adapter: Any, overlap: int):
    utils, windows = importlib.import_module("lm_eval.utils"), adapter.windows
    for count in (1, 31, 32, 33, 100, 131):
        ids = list(range(100, 100 + count))
        theirs = utils.get_rolling_token_windows(ids, prefix_token=7, max_seq_len=32, context_len=overlap + 1)
        row = [7, *ids]
        ours = [(row[w.begin : w.end - 1], row[w.first : w.end]) for w in windows(count + 1, 32, overlap)]
        assert ours == list(theirs)


def test_generation_stops_and_keeps_the_order(adapter: Any, model: tandem.LanguageModel, reader: Subject):
    prompts = ["Why?", "Question: What is the name of the bucket?\nAnswer:", "Because"]
    free = [model.generate(prompt, temperature=0, max_tokens=20).text for prompt in prompts]
    stop = next(text[6:8] for text in free if len(text) > 8)
    options = {"until": [stop], "max_gen_toks": 20, "do_sample": False}
    found = adapter.TandemLM(reader, batch=2).generate_until([Request(prompt, options) for prompt in prompts])
    assert found == [text.split(stop)[0] for text in free]
    short = adapter.TandemLM(reader).generate_until([Request("Why?", {**options, "max_gen_toks": 3, "until": []})])
    assert short == [model.generate("Why?", temperature=0, max_tokens=3).text]


def test_sampled_generation_takes_the_tasks_options(adapter: Any, reader: Subject):
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 5.0, "top_k": 50}
    first, again, other = (
        adapter.TandemLM(reader, seed=seed).generate_until([Request("Why?", options)]) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_chats_are_asked_by_their_ids_and_thinking_is_stripped(
    adapter: Any, reader: Subject, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    chat = Subject(model=reader.model, tokenizer=tokenizer, chat=True)
    adapted = adapter.TandemLM(chat)
    history = [{"role": "user", "content": "Why <eos>?"}]
    context = adapted.apply_chat_template(history)
    ids = chat_ids(tokenizer, history, thinking="short")
    (found,) = adapted.loglikelihood([Request(context, "Because.")])
    (scores,) = chat.scores([ids + tokenizer.encode("Because.")], [len(ids)])
    assert found[0] == pytest.approx(float(scores.logp_T.sum()), rel=1e-5)

    asked: list[list[int]] = []

    def written(model: HybridLM, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        asked.extend(prompts)
        return [[6, *tokenizer.encode("Hm.\n"), 7, *tokenizer.encode(" Because.\nNo"), 2]]

    monkeypatch.setattr("tandem.evaluate.subject.generate_batch", written)
    assert adapted.generate_until([Request(context, {"until": ["\n"]})]) == ["Because."]
    assert asked == [ids]
    with pytest.raises(ValueError, match="messages must end with one from the user"):
        adapted.apply_chat_template([*history, {"role": "assistant", "content": "The"}], add_generation_prompt=False)


def test_long_contexts_lose_their_beginning(
    adapter: Any, reader: Subject, model: tandem.LanguageModel, caplog: pytest.LogCaptureFixture
):
    context, continuation = "Why 42? " * 20 + "So", " the name"
    ids = model.tokenizer.text_ids(context + continuation)
    more = len(model.tokenizer.encode(continuation))
    (found,) = adapter.TandemLM(reader).loglikelihood([Request(context, continuation)])
    (scores,) = reader.scores([ids[-65:]], [65 - more])
    assert found[0] == pytest.approx(float(scores.logp_T.sum()), rel=1e-5)
    assert "loses the first" in caplog.text
    with pytest.raises(ValueError, match=r"continuation of \d+ tokens is longer than config\.context=64"):
        adapter.TandemLM(reader).loglikelihood([Request("Why?", " the name" * 80)])
    options = {"until": [], "max_gen_toks": 10}
    (text,) = adapter.TandemLM(reader).generate_until([Request(context, options)])
    (done,) = reader.answers([model.tokenizer.text_ids(context)[-55:]], max_tokens=10)
    assert text == done.text


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multiple-choice, a generation and a rolling task over one local JSON file."""
    tmp_path = tmp_path_factory.mktemp("tasks")
    data = tmp_path / "questions.json"
    rows = ({"question": ask, "choices": choices, "answer": right} for ask, choices, right in QUESTIONS)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
        "metadata:\n  version: 1\n"
    )
    ask = 'doc_to_text: "Question: {{question}}\\nAnswer:"\n'
    (tmp_path / "choice.yaml").write_text(
        f'task: toy_choice\noutput_type: multiple_choice\n{common}{ask}doc_to_choice: "{{{{choices}}}}"\n'
        'doc_to_target: "{{answer}}"\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n'
    )
    (tmp_path / "generate.yaml").write_text(
        f"task: toy_generate\noutput_type: generate_until\n{common}{ask}"
        'doc_to_target: "{{choices[answer]}}"\ngeneration_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 6\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (tmp_path / "rolling.yaml").write_text(
        f'task: toy_rolling\noutput_type: loglikelihood_rolling\n{common}doc_to_text: ""\n'
        'doc_to_target: "{{question}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n    aggregation: bits_per_byte\n    higher_is_better: false\n"
    )
    return tmp_path


def test_tasks_run_from_the_command_and_count_right(
    adapter: Any, model: tandem.LanguageModel, tasks: Path, tokenizer: Tokenizer
):
    saved = hub.save(model.model, tokenizer, tasks / "toy")
    config = EvaluateConfig(
        tasks="toy_choice,toy_generate,toy_rolling",
        include_path=tasks,
        device="cpu",
        output=tasks / "out.json",
    )
    results = run_evaluation(str(saved), config)
    metrics = {cell["task"]: cell["metrics"] for cell in results.cells}
    hits = 0
    for ask, choices, right in QUESTIONS:
        scores = [direct(model, f"Question: {ask}\nAnswer:", f" {choice}") for choice in choices]
        hits += scores.index(max(scores)) == right
    accuracy = metrics["toy_choice"]["acc"]
    assert accuracy["value"] == pytest.approx(hits / len(QUESTIONS))
    assert accuracy["n"] == len(QUESTIONS)
    spread = math.sqrt(hits / 7 * (1 - hits / 7) / 6)
    assert accuracy["error"] == pytest.approx(spread, abs=1e-6)
    written = [model.generate(f"Question: {ask}\nAnswer:", temperature=0, max_tokens=6).text for ask, *_ in QUESTIONS]
    same = sum(text == choices[right] for text, (_, choices, right) in zip(written, QUESTIONS, strict=True))
    assert metrics["toy_generate"]["exact_match"]["value"] == pytest.approx(same / len(QUESTIONS))
    nats = -sum(direct(model, "", ask) for ask, *_ in QUESTIONS)
    size = sum(len(ask.encode()) for ask, *_ in QUESTIONS)
    assert metrics["toy_rolling"]["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    before = (tasks / "out.json").read_bytes()
    run_evaluation(str(saved), config)
    assert (tasks / "out.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "toy_choise"}, "tasks='toy_choise' is unknown; did you mean 'toy_choice'?"),
        ({"tasks": "neddle"}, "tasks='neddle' is unknown; did you mean 'needle'?"),
        ({"tasks": "toy_choice", "include_path": Path("nowhere")}, "include_path=nowhere is not a directory"),
        ({"tasks": "arc_easy", "limit": 2}, "tasks='arc_easy' has no data on disk "),
    ],
)
def test_mistakes(adapter: Any, tasks: Path, options: dict[str, Any], message: str):
    config = EvaluateConfig(**{"include_path": tasks, "output": tasks / "mistakes.json", "device": "cpu", **options})
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        run_evaluation("nano", config)
