"""The front door, and the two verbs behind which it stands."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tokenizers
import torch

import tandem
from tandem.cli import main
from tandem.cli.chat import Dialogue, RunningText
from tandem.data import Tokenizer
from tandem.nn import AttentionConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig, SequenceLayout

TEXT = "Returns the name of the bucket, and 42 objects in it. Größe: 10 µm. 你好 🙂\n\nQ: why?\n"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
MESSAGES = [{"role": "user", "content": "why"}]


def tiny(*, chat: bool = False, context: int = 96) -> tandem.LanguageModel:
    tokenizer = Tokenizer.train([TEXT] * 4, vocab_size=320)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        pattern="MFAMF",
        attention=AttentionConfig(heads=4, kv_heads=2, head_width=8),
        mamba=MambaConfig(heads=4, head_width=8, state=8, groups=2, chunk=8),
        ffn=MoEConfig(experts=4, top_k=2, hidden=16),
        context=context,
    )
    model = HybridLM(config).eval()
    with (
        torch.no_grad()
    ):  # so that the random text has no reserved ids in it, <eos> above all, and is not the same word
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
            if parameter.shape == (config.vocab_size, config.width):
                parameter[:32] = 0
    return tandem.LanguageModel(model, tokenizer, config, chat=chat)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small threads cost more than they bring, ten times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base() -> tandem.LanguageModel:
    return tiny()


@pytest.fixture(scope="module")
def directory(base: tandem.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base.save(tmp_path_factory.mktemp("saved") / "tiny")


def test_generate_is_what_stream_yields(base: tandem.LanguageModel) -> None:
    options = {"max_tokens": 30, "temperature": 1.0, "seed": 4}
    stream = base.stream("Returns", **options)  # pyright: ignore[reportArgumentType]
    pieces = list(stream)
    done = base.generate("Returns", **options)  # pyright: ignore[reportArgumentType]
    assert len(pieces) > 5
    assert "".join(pieces) == done.text == stream.completion.text
    assert (done.answer, done.thinking, done.mode) == (done.text.strip(), "", "short")
    assert 1 <= done.tokens <= 30


def test_a_stop_string_cuts_the_same_text(base: tandem.LanguageModel) -> None:
    free = base.generate("Returns", max_tokens=30, temperature=0.0).text
    stop = free[8:11]
    cut = base.generate("Returns", max_tokens=30, temperature=0.0, stop=stop)
    assert cut.text == free[: free.index(stop)]
    assert cut == base.generate("Returns", max_tokens=30, temperature=0.0, stop=[stop])


def test_seeds_repeat(base: tandem.LanguageModel) -> None:
    texts = [base.generate("", max_tokens=20, temperature=1.0, seed=seed).text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_prompts_become_ids(base: tandem.LanguageModel) -> None:
    t = base.tokenizer
    assert base.prompt_ids("") == [t.bos_id]
    assert base.prompt_ids("<eos>") == [t.bos_id, *t.encode("<eos>")]
    chat = tandem.LanguageModel(base.model, t, base.config, chat=True)
    auto = base.prompt_ids(MESSAGES)
    assert [base.prompt_ids(MESSAGES, thinking=mode) for mode in ("short", "long")] == [auto, auto]
    assert chat.prompt_ids(MESSAGES, thinking="short") == [*auto, t.think_id, t.end_think_id]
    assert chat.prompt_ids(MESSAGES, thinking="long") == [*auto, t.think_id]
    assert chat.prompt_ids("x", thinking="long") == [t.bos_id, *t.encode("x")]


def test_an_opened_think_block_is_part_of_the_text(base: tandem.LanguageModel) -> None:
    chat = tandem.LanguageModel(base.model, base.tokenizer, base.config, chat=True)
    done = chat.generate(MESSAGES, thinking="long", max_tokens=12, temperature=0.0)
    assert done.text.startswith("<think>")
    assert done.mode == "long"
    assert done.thinking


def test_score_is_the_log_softmax_of_the_forward(base: tandem.LanguageModel) -> None:
    ids = [base.tokenizer.bos_id, *base.tokenizer.encode(TEXT[:40])]
    with torch.no_grad():
        logits_TV = base.model(torch.tensor(ids), SequenceLayout.from_lengths([len(ids)], chunk=8))
    expected_T = logits_TV[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(base.score(TEXT[:40]), expected_T)
    with pytest.raises(ValueError, match="text='' has no token to score"):
        base.score("")


def test_save_and_load(base: tandem.LanguageModel, directory: Path, tmp_path: Path) -> None:
    loaded = tandem.load(directory)
    assert loaded.config == base.config
    assert loaded.chat is False
    assert loaded.generate("Re", max_tokens=9, seed=1) == base.generate("Re", max_tokens=9, seed=1)
    assert torch.equal(loaded.score(TEXT[:30]), base.score(TEXT[:30]))
    tandem.LanguageModel(base.model, base.tokenizer, base.config, chat=True).save(tmp_path / "chat", dtype="bfloat16")
    assert tandem.load(str(tmp_path / "chat")).chat is True


def test_wrong_arguments_are_named(base: tandem.LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"prompt of \d+ tokens is longer than config\.context=96"):
        base.generate("7" * 97)
    with pytest.raises(ValueError, match="max_tokens=0"):
        base.generate("x", max_tokens=0)
    with pytest.raises(ValueError, match=r"temperature=-1\.0"):
        base.stream("x", temperature=-1.0)


def run(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from tandem.cli import main; main()", *map(str, arguments)]
    return subprocess.run(line, input=text, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)


@dataclass(frozen=True)
class Here:
    """Runs a command in this process: a child would spend seconds on importing torch."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path, text: str = "") -> tuple[int, str, str]:
        self.monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code = 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, error = self.capsys.readouterr()
        return code, out, error


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


def test_int8_weights(base: tandem.LanguageModel, directory: Path, here: Here) -> None:
    rounded = tandem.load(directory, weights="int8")
    near = rounded.score(TEXT[:30]) - base.score(TEXT[:30])
    assert 0 < near.abs().mean() < 0.3
    expected = rounded.generate("Re", max_tokens=9, seed=1)
    arguments = ("--prompt", "Re", "--max-tokens", "9", "--seed", "1", "--weights", "int8")
    assert here("generate", directory, *arguments)[:2] == (0, expected.text + "\n")
    with pytest.raises(ValueError, match="weights='int4' is unknown; use one of stored, int8"):
        tandem.load(directory, weights="int4")


def test_generate_command_streams_and_tells_the_speed(base: tandem.LanguageModel, directory: Path) -> None:
    options = ["--max-tokens", "12", "--temperature", "1", "--seed", "3", "--top-p", "0.9", "--min-p", "0.01"]
    expected = base.generate("Returns", max_tokens=12, temperature=1.0, seed=3, top_p=0.9, min_p=0.01)
    given = run("generate", directory, "--prompt", "Returns", *options)
    assert (given.returncode, given.stdout) == (0, expected.text + "\n")
    assert re.fullmatch(rf"{expected.tokens} tokens in [\d.]+ s, prompt included: [\d.]+ tokens/s\n", given.stderr)
    assert run("generate", directory, "--prompt", "-", *options, text="Returns\n").stdout == given.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere", "--prompt", "x"], "tandem generate: source='nowhere' is no directory"),
        (["{model}", "--prompt", "7" * 97], r"tandem generate: prompt of \d+ tokens is longer than config\.context=96"),
        (["{model}", "--prompt", "x", "--top-p", "2"], r"tandem generate: top_p=2\.0 is outside \(0, 1\]"),
        (["{model}", "--prompt", "x", "--stop", ""], "tandem generate: stop=''"),
        (["{model}", "--prompt", "x", "--top-p", "much"], "tandem generate: .*'much'.*see tandem generate --help"),
        (["{model}"], "tandem generate: .*--prompt"),
    ],
)
def test_generate_command_tells_mistakes_in_one_line(
    directory: Path, here: Here, arguments: list[str], error: str
) -> None:
    code, out, told = here("generate", *(a.format(model=directory) for a in arguments))
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"{error}[^\n]*\n", told)


def test_chat_with_a_base_model_continues_one_text(
    base: tandem.LanguageModel, directory: Path, tmp_path: Path, here: Here
) -> None:
    file = tmp_path / "talk.txt"
    lines = [
        "Returns",
        "the name",
        f"/save {file}",
        "/nonsense",
        "/help",
        "/reset",
        "it",
        f"/save {file}.2",
        "/exit",
        "x",
    ]
    code, out, told = here("chat", directory, "--max-tokens", "6", "--temperature", "0", text="\n".join(lines))
    assert code == 0, told
    assert "is a base model, it continues your text" in " ".join(out.split())
    first = "Returns" + base.generate("Returns", max_tokens=6, temperature=0.0).text
    second = f"{first}\nthe name" + base.generate(f"{first}\nthe name", max_tokens=6, temperature=0.0).text
    assert file.read_text(encoding="utf-8") == second + "\n"
    assert "command '/nonsense' is unknown; /help lists them" in out
    assert Path(f"{file}.2").read_text(encoding="utf-8").startswith("it")


def test_chat_with_a_tuned_model_keeps_turns(base: tandem.LanguageModel, tmp_path: Path, here: Here) -> None:
    chat = tandem.LanguageModel(base.model, base.tokenizer, base.config, chat=True)
    directory, file = chat.save(tmp_path / "chat"), tmp_path / "talk.json"
    code, out, told = here("chat", directory, "--max-tokens", "6", "--seed", "0", text=f"hi\nwhy\n/save {file}\n")
    assert code == 0, told
    assert "base model" not in out
    first = chat.generate([{"role": "user", "content": "hi"}], max_tokens=6, seed=0).answer
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": first}]
    turns += [{"role": "user", "content": "why"}]
    second = chat.generate(turns, max_tokens=6, seed=1).answer
    assert json.loads(file.read_text()) == [*turns, {"role": "assistant", "content": second}]


def test_chat_survives_mistakes_in_a_line_but_not_in_an_option(directory: Path, here: Here) -> None:
    code, out, told = here("chat", directory, "--max-tokens", "2", text=f"/save\n/save {directory}/config.json/x\nit\n")
    assert code == 0, told
    assert "/save needs a file" in out
    assert "tokens/s]" in out
    code, out, told = here("chat", directory, "--top-p", "0", text="it\n")
    assert (code, out) == (2, "")
    assert told.startswith("tandem chat: top_p=0.0 is outside")


def test_chat_drops_the_oldest_turns_when_the_context_is_full() -> None:
    chat = tiny(chat=True, context=64)
    dialogue = Dialogue(model=chat, system="be")
    for turn in range(9):
        dialogue.record(f"question {turn}", f"answer {turn}")
    sent = dialogue.prompt("last", room=16)
    assert len(chat.prompt_ids(sent)) <= 64 - 16
    assert sent[0] == {"role": "system", "content": "be"}
    assert sent[1]["role"] == "user"
    assert sent[-1] == {"role": "user", "content": "last"}
    assert len(dialogue.messages) == 18
    text = RunningText(model=chat)
    text.record("你好 🙂 " * 20, " and so on")
    kept = text.prompt("last", room=16)
    assert len(chat.prompt_ids(kept)) <= 64 - 16
    assert kept.endswith("and so on\nlast")
    assert "\ufffd" not in kept


def test_ctrl_c_stops_the_answer_and_returns_to_the_prompt(tmp_path: Path) -> None:
    directory = tiny(context=50_000).save(tmp_path / "long")
    # What a shell runs in the background ignores Ctrl-C, and so does what that starts: here it must not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    line = [sys.executable, "-uc", f"{listen}; from tandem.cli import main; main()", "chat", str(directory)]
    process = subprocess.Popen(
        [*line, "--max-tokens", "40000", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"Returns\n")
    process.stdin.flush()
    seen = b""
    while seen.count(b"> ") < 1 or len(seen.partition(b"> ")[2]) < 40:  # the answer has begun
        new = os.read(process.stdout.fileno(), 4096)
        assert new, process.communicate()
        seen += new
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    out, error = process.communicate(b"/exit\n", timeout=30)
    assert process.returncode == 0, error
    assert re.search(rb"\[\d+ tokens, \d+ tokens/s\]\s*> ", out)


def released(directory: Path) -> Path:
    """A random Llama as its authors would publish it: byte-level tokenizer, special tokens, chat template."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    names = ["<|end|>", "<|turn|>", "<think>", "</think>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    backend.save(str(directory / "tokenizer.json"))
    template = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}<|turn|>assistant"
    own = {"bos_token": None, "eos_token": "<|end|>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(own), encoding="utf-8")
    return directory


def test_a_released_model_talks(tmp_path: Path, here: Here) -> None:
    m = tandem.load(released(tmp_path / "llama"))
    assert m.chat
    ids = m.prompt_ids(MESSAGES)
    assert m.tokenizer.decode(ids, skip_special=False) == "<|turn|>user\nwhy<|end|><|turn|>assistant"
    done = m.generate(MESSAGES, max_tokens=12, temperature=0.0)
    assert done.text == m.tokenizer.decode(m.tokenizer.encode(done.text))
    assert 1 <= done.tokens <= 12
    thought = m.generate(MESSAGES, thinking="long", max_tokens=12, temperature=0.0)
    assert thought.text.startswith("<think>")
    assert thought.mode == "long"
    assert m.prompt_ids("why") == m.tokenizer.encode("why")
    assert len(m.score("Returns the name")) == len(m.tokenizer.encode("Returns the name"))
    with pytest.raises(ValueError, match=r"prompt of \d+ tokens is longer than config\.context=64"):
        m.generate([{"role": "user", "content": "é" * 64}])
    again = tandem.load(m.save(tmp_path / "ours"))
    assert again.chat
    assert again.generate(MESSAGES, max_tokens=12, temperature=0.0) == done
    code, out, told = here("chat", tmp_path / "llama", "--max-tokens", "4", "--temperature", "0", text="why\n")
    assert code == 0, told
    assert "base model" not in out


def test_a_released_model_that_is_not_supported_is_one_line(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "rwkv"}')
    code, _, told = here("generate", tmp_path, "--prompt", "x")
    assert code == 2
    assert re.fullmatch(
        r"tandem generate: .*config\.json: config model_type='rwkv' is not supported; .*llama[^\n]*\n", told
    )
