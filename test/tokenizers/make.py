"""Writes cases.json: what the Rust library (`pip install tokenizers==0.23.2`) makes of texts, by component and whole.

usage: python3 test/tokenizers/make.py [texts at random for each component]
"""
import json
import os
import random
import sys

from tokenizers import Tokenizer

MINIMAL = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


def tokenizer(**parts):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": MINIMAL}
    return {**whole, **parts}


def rust(**parts):
    return Tokenizer.from_str(json.dumps(tokenizer(**parts)))


TEXTS = [
    "", " ", "Hello  World", "the-final--countdown", "naïve café déjà-vu", "ΟΔΟΣ ΣΑΣ Σ", "İstanbul Ǆ ẞ", "a\u0301 e\u0308",
    "x²y³ ½ ٣٤ Ⅷ 12 345", "one,two;three!!! (four)", "tab\there\nline\r\n  end ", "\u00a0nbsp\u2003em\u0085next\ufefffe",
    "中文字 和 ABC 𠀋x", "emoji 😀👨‍👩‍👧 ok", "it's we're I'll DON'T", "a_b __c__ d\u200dj", "＜ﬁ＞ ①Ａ", "\u0000\u0001ctrl\ufffd\u00ad",
    "camelCaseWord HTTPServer", "1234567 12 1", "   lead", "trail   ", "<s>hello</s> <S>", "हिन्दी ภาษาไทย", "$1 $& $$ \\1",
]
ALPHABET = list("aabbcAB  \t\n.,-_'!²٣½é́ΣσİßſK中😀\u00a0\u0085\ufeff\u200d12▁ĠＡ<>s/")

REPLACED = {"Regex": "a|b"}
SPLIT = lambda pattern, behavior="Isolated", invert=False: {
    "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
PATTERNS = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", r"(?<=[a-z])(?=[A-Z])", r"\w+", r"\W", r"\b", r"[[:alpha:]&&[^a]]+", r"^.|.$",
    r"(?:ab|a)+?b", r"(?>a+)b|a", r"a{2}|b{,2}c|c{1,}", r"[^(\s|[.,!?])]+", r"\d+|\h+", r"\A.|\z|.\Z", r"x*", r"a++a|.",
    r"(?<!a)b", r"[\]\-a]+", r"[]a]", r"\x41|\u0062|\t",
]

NORMALIZERS = [
    {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"},
    {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Prepend", "prepend": "▁"},
    {"type": "ByteLevel"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "$&$$1"},
    {"type": "Replace", "pattern": {"Regex": r" {2,}"}, "content": " "},
    {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]},
] + [
    {"type": "BertNormalizer", "clean_text": c, "handle_chinese_chars": h, "strip_accents": s, "lowercase": l}
    for c, h, s, l in [(True, True, None, True), (True, True, None, False), (False, True, True, False),
                       (True, False, False, True), (False, False, None, True)]
]

PRE_TOKENIZERS = [
    {"type": "BertPreTokenizer"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    {"type": "Digits", "individual_digits": False}, {"type": "Digits", "individual_digits": True},
    {"type": "CharDelimiterSplit", "delimiter": "-"}, {"type": "FixedLength", "length": 3},
    {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}]},
    {"type": "Sequence", "pretokenizers": [SPLIT({"Regex": PATTERNS[1]}),
                                           {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
    {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                                           {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
] + [{"type": "Punctuation", "behavior": b} for b in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]] + [
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": p, "split": s}
    for p in ["always", "first", "never"] for s in [True, False]
] + [{"type": "Metaspace", "replacement": "▁", "add_prefix_space": p} for p in [True]] + [
    SPLIT(p, b, i) for p in [{"String": " "}, {"Regex": r"[\s-]"}, {"Regex": r"\w+"}, {"String": ""}]
    for b in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] for i in [False, True]
] + [SPLIT({"Regex": p}) for p in PATTERNS]

LLAMA = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
DECODERS = [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "WordPiece", "prefix": "##", "cleanup": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}, {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": "▁", "start": 2, "stop": 0},
    {"type": "Strip", "content": "▁", "start": 0, "stop": 1},
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, LLAMA,
    {"type": "Sequence", "decoders": [*LLAMA["decoders"][:3], {"type": "Strip", "content": " ", "start": 2, "stop": 0}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "A"}]},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
]
TOKENS = ["▁", "▁▁lead", "▁the", "the", "a", "aa", "##ing", "##", ".", "?", "n't", "'s", "do not", " do not", ",", "</w>", "low</w>",
          "<0xE2>", "<0x96>", "<0x81>", "<0xF0>", "<0x9F>", "<0x0A>", "<0xEF>", "<0xBB>", "<0xBF>", "Ġa", "ä¸", "Ń", "Ċ", "é", "</s>", "<0xZZ>", " "]

special = lambda id, content, **flags: {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                        "normalized": False, "special": True, **flags}
WORDS = {w: i for i, w in enumerate(["[UNK]", "hello", "world", "##ing", "##s", "go", "un", "##want", "##ed", "a", "b", "##b", "[CLS]", "[SEP]", ","])}
UNIGRAM = [["<unk>", 0.0], ["▁", -2.0], ["▁hello", -3.5], ["hell", -4.0], ["o", -2.5], ["▁wor", -4.0], ["ld", -3.0], ["l", -3.2], ["d", -3.3],
           ["h", -3.0], ["e", -2.9], ["▁of▁the", -5.0], ["▁of", -3.0], ["▁the", -3.0], ["中", -6.0], ["<0xC3>", -9.0], ["<0xA9>", -9.0]]
BPE = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
       "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
       "vocab": {t: i for i, t in enumerate(["<unk>", "a", "b", "c", "ab", "abc", "▁", "▁a", "bc", "e\u0301", "é", "<0x0A>", "<0xC3>", "<0xA9>", "s", "h", "l", "o"])},
       "merges": ["a b", "ab c", "▁ a", "b c"]}
ADDED = [special(18, "<s>"), special(19, "</s>", rstrip=True), special(20, "<img>", lstrip=True),
         special(21, "new", special=False, normalized=True, single_word=True), special(22, "café", special=False, normalized=True),
         special(23, "<s><s>"), special(24, "ab▁", special=False)]
TOKENIZERS = [
    tokenizer(model=BPE), tokenizer(model={**BPE, "fuse_unk": True}), tokenizer(model={**BPE, "byte_fallback": True}),
    tokenizer(model={**BPE, "byte_fallback": True, "fuse_unk": True, "vocab": {**BPE["vocab"], "<unk>a": 18, "<0xC3><0xA9>": 19},
                     "merges": [*BPE["merges"], "<unk> a", "<0xC3> <0xA9>"]}),
    tokenizer(model={**BPE, "unk_token": None, "end_of_word_suffix": "</w>"}), tokenizer(model={**BPE, "unk_token": None}), tokenizer(model={**BPE, "ignore_merges": True, "merges": ["a b"]}),
    tokenizer(model={**BPE, "end_of_word_suffix": "</w>", "vocab": {**BPE["vocab"], "c</w>": 20, "bc</w>": 21, "a</w>": 22}, "merges": ["b c</w>"]},
              pre_tokenizer={"type": "WhitespaceSplit"}, decoder={"type": "BPEDecoder", "suffix": "</w>"}),
    tokenizer(model=BPE, added_tokens=ADDED), tokenizer(model=BPE, added_tokens=ADDED, normalizer={"type": "Lowercase"}),
    tokenizer(model=BPE, added_tokens=[{**t, "id": 18 + i} for i, t in enumerate(t for t in ADDED if not t["normalized"])], normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, decoder=LLAMA),
    tokenizer(model=BPE, added_tokens=ADDED, pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
              decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}),
    tokenizer(model={"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"}, pre_tokenizer={"type": "Whitespace"}),
    tokenizer(model={"type": "WordPiece", "vocab": WORDS, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 12},
              normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
              pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
              post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                              "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [12], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [13], "tokens": ["[SEP]"]}}}),
    tokenizer(model={"type": "Unigram", "unk_id": 0, "vocab": UNIGRAM, "byte_fallback": False},
              pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
              decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
    tokenizer(model={"type": "Unigram", "unk_id": 0, "vocab": UNIGRAM, "byte_fallback": True},
              pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}, decoder=LLAMA),
    tokenizer(model=BPE, added_tokens=ADDED, post_processor={"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        {"type": "RobertaProcessing", "sep": ["</s>", 19], "cls": ["<s>", 18], "trim_offsets": True, "add_prefix_space": False}]}),
]
QUESTIONS = ["", "abc ab a", "  abc\n", "<s>abc</s>  b <img>c", "abc  <img>  ab", "new newer renew new.", "Café CAFÉ café", "<s><s><s>", "hello world",
             "hello of the world ll", "goings unwanteds GO, hello", "zzz é 中 xyz", "x", "aé\ue000\ue001b", "abcabcab", "ab ▁ab▁", "héllo  hello", "中中a",
             "NEW new", "<S>ab", "aaaaaaaaaaaaaaaa", "z\nzz\n\nza", "xa xxa è\u00e9a"]


def main(count):
    draw = random.Random(1)
    texts = lambda some: some + ["".join(draw.choice(ALPHABET) for _ in range(draw.randint(1, 14))) for _ in range(count)]

    def cases(json_part, inputs, run):
        return {"json": json_part, "cases": [[x, *run(x)] for x in inputs]}

    out = {"normalizers": [], "preTokenizers": [], "decoders": [], "tokenizers": []}
    for part in NORMALIZERS:
        made = rust(normalizer=part).normalizer
        out["normalizers"].append(cases(part, texts(TEXTS), lambda x: [made.normalize_str(x)]))
    for part in PRE_TOKENIZERS:
        made = rust(pre_tokenizer=part).pre_tokenizer
        out["preTokenizers"].append(cases(part, texts(TEXTS), lambda x: [[t for t, _ in made.pre_tokenize_str(x)]]))
    for part in DECODERS:
        made = rust(decoder=part).decoder
        lists = [[t] for t in TOKENS] + [[draw.choice(TOKENS) for _ in range(draw.randint(1, 6))] for _ in range(25 + count)]
        out["decoders"].append(cases(part, lists, lambda x: [made.decode(x)]))
    for part in TOKENIZERS:
        made = Tokenizer.from_str(json.dumps(part))

        def run(x):
            plain = made.encode(x, add_special_tokens=False).ids
            return [plain, made.encode(x).ids, made.decode(plain, skip_special_tokens=True), made.decode(plain, skip_special_tokens=False)]

        out["tokenizers"].append(cases(part, texts(QUESTIONS), run))
    return out


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(__file__), "cases.json")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    lines = {kind: [json.dumps(entry, ensure_ascii=True, separators=(",", ":")) for entry in entries] for kind, entries in main(count).items()}
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(f'"{kind}": [\n' + ",\n".join(entries) + "\n]" for kind, entries in lines.items()) + "\n}\n")
