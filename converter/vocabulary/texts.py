"""Texts on which tokenizers part: what a conversion's check runs through both, and what two splittings differ on.

Each is short, so that a difference can be shown whole. What a tokenizer makes of the spaces between its tokens, of
digits, of letters with marks and of line breaks is where pre-tokenizers differ; what it makes of rare characters is
where vocabularies do.
"""

from __future__ import annotations

HARD_TEXTS: tuple[str, ...] = (
    "Hello world",
    " Hello  world ",
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    " \n  \n   \n\t\n",
    "line one\nline two\n\n  indented",
    "trailing spaces   \nnext",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3",
    "1,234,567.89 -42 +7 1e-10 0x1F 2024-12-31 23:59:59",
    "\u0661\u0662\u0663 \u0967\u0968\u0969 \u00bd \u00b2 \u2167 \uff11\uff12",
    "I've he'll they're 'tis DON'T We'Ve you'd o'clock rock'n'roll",
    "\u2019s \u201cquotes\u201d \u2018single\u2019 l\u2019\u00e9t\u00e9",
    "camelCase PascalCase snake_case SCREAMING_CASE kebab-case HTTPServer2x",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # comment\n",
    'if (a&&b||!c) { x[0] += y->z; } // done\n\t"str\\n"',
    '<html><body class="a">&amp;</body></html>',
    "https://example.com/path?q=1&r=%20#frag user@example.org",
    "C:\\Users\\name\\file.txt /usr/local/bin ~/.config",
    "!!!!!! ?????? ...... ------ ====== ****** ###### ~~~~~~ ______ //////",
    "$5.00 \u20ac10 \u00a37 100% #1 @you a+b=c 5<6>4",
    "na\u00efve fa\u00e7ade \u00fcber \u00c5ngstr\u00f6m \u00d8resund \u0141\u00f3d\u017a \u0130stanbul stra\u00dfe",
    "e\u0301 a\u0308 n\u0303 Cu\u031b\u0309a Vie\u0323\u0302t",
    "z\u0351\u036b\u0343a\u0300\u0301\u0302l\u0334g\u0321o\u0322",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041d\u0435\u0449\u043e \u043d\u0430 "
    "\u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \uff8a\uff9d\uff76\uff78",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4 \u1112\u1161\u11ab",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0640\u0640 \u064e\u064f",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0915\u094d\u0937",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785",
    "\U0001f680 \U0001f636\u200d\U0001f32b\ufe0f \u2705 \U0001f999\U0001f999 \U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea 5\ufe0f\u20e3 \u2764\ufe0f",
    "\U0001d54f \U0001d4d0\U0001d4d1 \U00020bb7 \U00010348",
    "\u00a0nbsp\u00a0 \u2003em\u2003 \u3000wide\u3000 \u200bzero\u200b \ufefftail",
    "a\u00adb \u2028line\u2029para \u202eright\u202c",
    "\ufb01ne \ufb03 \u2460 \u33a5 \u212b \u2126 \u00b5",
    "\x00\x01\x1b[0m\x7f",
    "the the the the aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "antidisestablishmentarianism supercalifragilisticexpialidocious",
    "x" * 120,
)
