"""The report as a reader's browser sees it: parsed by html.parser, its charts by an XML parser."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from app.measure_messages import (
    HISTOGRAM_EDGES,
    BenchMemory,
    BenchResult,
    CandidateFailure,
    CandidateQuality,
    ChoiceScore,
    Estimate,
    Kld,
    ModelBench,
    Passage,
    PassageToken,
    QualityResult,
    Roofline,
    Shift,
    SliceQuality,
    SpeedPoint,
    Spread,
    TaskFlip,
    TaskScore,
    TaskShift,
)
from app.memory_messages import Memory
from app.quality import figures, numbers, report, svg
from app.workers.measure import write_report
from converter.spec import OutputDone

EVIL = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "br", "link", "img", "hr", "input"}


def candidate(kind: str, size: int, divergence: float, **changes: object) -> CandidateQuality:
    estimate = Estimate(divergence, divergence / 20)
    base = CandidateQuality(
        path=f"/models/Pocket-{kind}.gguf",
        type=kind,
        bytes=size,
        perplexity=Estimate(37.85, 0.9),
        ln_ratio=Estimate(divergence / 3, divergence / 9),
        kld=Kld(estimate, estimate, estimate, estimate, estimate, estimate),
        top1=Estimate(0.93, 0.004),
        rms_dp=Estimate(0.02, 0.001),
        tasks={"arithmetic": TaskScore(150, 113), "knowledge": TaskScore(150, 150)},
        slices={"prose": SliceQuality(1530, Estimate(36.0, 1.0), estimate, Estimate(0.93, 0.01))},
        tokens_per_second=1234.5,
        memory=Memory(1 << 22, 1 << 23, 1 << 23, 1 << 22),
        verdict="review",
        reason="KL divergence is so.",
        histogram=tuple(10 if 8 < i < 16 else 0 for i in range(len(HISTOGRAM_EDGES) - 1)),
        by_position=(divergence,) * 8,
    )
    return msgspec.structs.replace(base, **changes)


def result(**changes: object) -> QualityResult:
    zero = Estimate(0.0, 0.0)
    reference = candidate(
        "BF16",
        10562048,
        0.0,
        kld=Kld(*[zero] * 6),
        top1=Estimate(1.0, 0.0),
        verdict="pass",
        histogram=(),
        by_position=(),
    )
    candidates = tuple(
        candidate(kind, size, kld)
        for kind, size, kld in (("Q8_0", 5646848, 0.00035), ("Q4_K_M", 3278848, 0.0117), ("Q2_K", 2234368, 0.1236))
    )
    base = QualityResult(reference, candidates, 8160, 512, ("prose",), 12.5)
    return msgspec.structs.replace(base, **changes)


def bench() -> BenchResult:
    slow = SpeedPoint(128, 0, 1, Spread(1000.0, 900.0, 1100.0))
    fast = SpeedPoint(128, 0, 2, Spread(2000.0, 1900.0, 2100.0))
    memory = BenchMemory(3 << 20, 1 << 20, 8 << 20, 30 << 20, 25 << 20)
    model = ModelBench(
        "/models/Pocket-Q4_K_M.gguf",
        None,
        0.02,
        0.05,
        (slow, fast),
        (slow, fast),
        memory,
        Roofline(3412480, 4e10, 0.17),
    )
    return BenchResult((model,), "Some CPU", 3.0)


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps text and what would be loaded or run."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        self.loads += [
            f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "onload", "onclick", "xlink:href"}
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


SHOWN = (
    "Pocket-BF16.gguf",
    "Q4_K_M",
    "Review",
    "Not measured",
    "Too short.",
    "Paris.",
    "Lyon.",
    "other words",
    "113 of 150",
    "2,000",
    "Some CPU",
    "20 November 2026",
    "blk.0.ffn_down.weight",
    "8,160",
)


def full() -> str:
    answers = [report.Answers("Capital of France?", (report.Reply("BF16", "Paris."), report.Reply("Q2_K", "Lyon.")))]
    outputs = [OutputDone("/models/Pocket-Q4_K_M.gguf", "Q4_K_M", 3278848, 4.97, {}, {"blk.0.ffn_down.weight": 0.0012})]
    failures = (
        CandidateFailure(3, "/models/broken.gguf", "load_failed", "It could not be loaded.", "Too short.", "Again."),
    )
    facts = report.Facts((("Processor", "Some CPU"),), "20 November 2026")
    return report.render(result(failures=failures), bench(), answers, outputs, facts)


def test_page_is_whole_and_needs_nothing_else() -> None:
    page = full()
    parsed = Page(page)
    assert parsed.loads == []
    assert "script" not in parsed.tags
    assert "@import" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page
    for words in SHOWN:
        assert words in parsed.text, words
    assert parsed.tags.count("svg") == 5


def test_figures_are_rounded_for_people() -> None:
    text = Page(full()).text
    assert "0.0117 ± 0.0011" in text
    assert "10.1 MiB" in text
    assert not re.search(r"\d\.\d{9,}|\de-\d", text)


def test_what_came_from_outside_is_escaped() -> None:
    part = SliceQuality(1, Estimate(1, 1), Estimate(1, 1), Estimate(1, 1))
    named = {
        "path": f"/m/{EVIL}",
        "type": EVIL,
        "reason": EVIL,
        "slices": {EVIL: part},
        "tasks": {EVIL: TaskScore(1, 1)},
    }
    evil = candidate("Q4_K_M", 10, 0.1, **named)
    failure = CandidateFailure(0, EVIL, EVIL, EVIL, EVIL, EVIL)
    answers = [report.Answers(EVIL, (report.Reply(EVIL, EVIL), report.Reply(EVIL, "")))]
    output = OutputDone(EVIL, EVIL, 1, 1.0, {}, {EVIL: 1.0})
    page = report.render(
        result(candidates=(evil,), failures=(failure,), texts=(EVIL,), reference=evil),
        msgspec.structs.replace(bench(), cpu=EVIL),
        answers,
        [output],
        report.Facts(((EVIL, EVIL),), EVIL),
        title=EVIL,
    )
    assert "<script" not in page
    assert "script" not in Page(page).tags


def test_parts_without_data_are_left_out() -> None:
    bare = result(candidates=(), reference=candidate("BF16", 0, 0.0, tasks={}, slices={}, tokens_per_second=0.0))
    parsed = Page(report.render(bare))
    assert "Tasks solved" not in parsed.text
    assert "Size against quality" not in parsed.text
    assert "svg" not in parsed.tags


def test_charts_are_xml_and_put_better_files_lower() -> None:
    points = [svg.Point("A", "Q8_0", 100 << 20, 0.001, 0.0001), svg.Point("B", "Q2_K", 50 << 20, 0.1, 0.01)]
    chart = ET.fromstring(svg.pareto(points, ("ref", 200 << 20)))
    circles = list(chart.iter("circle"))
    assert [element.get("fill") for element in circles] == [svg.type_color("Q8_0"), svg.type_color("Q2_K")]
    assert float(circles[0].get("cy")) > float(circles[1].get("cy"))
    assert float(circles[0].get("cx")) > float(circles[1].get("cx"))
    for page in (
        svg.ridges([svg.Series("<a>", "Q4_K", [1, 0, 3])], (-2, -1, 0, 1), "x & y"),
        svg.lines([svg.Series("a", "Q4_K", [0.0, 0.1])], ["1", "2"], "x", "y"),
        svg.shares(["<g>"], [svg.Series("a", "Q4_K", [0.5], [0.4], [0.6])], "x"),
        svg.grouped_bars(["g"], [svg.Series("a", "Q4_K", [0.5], [0.4], [0.6])], "x"),
        svg.horizontal_bars([svg.Series("a", "Q4_K", [0.0])], "x", "tokens/s"),
        svg.pareto([svg.Point("same", "F16", 1 << 30, 0.0, 0.0)]),
    ):
        assert ET.fromstring(page).get("role") == "img"


def test_labels_of_close_dots_do_not_overlap() -> None:
    points = [svg.Point(f"model-{i}", "Q4_K", (100 + i) << 20, 0.01 + 0.0004 * i, 0.0) for i in range(4)]
    chart = ET.fromstring(svg.pareto(points, ("ref", 800 << 20)))
    boxes = [
        (float(t.get("x")), float(t.get("y")) - 11, len(t.text) * svg.CHARACTER, 14.0)
        for t in chart.iter("text")
        if t.get("class") == "label"
    ]
    assert len(boxes) == 4
    assert not any(svg._overlap(one, two) for i, one in enumerate(boxes) for two in boxes[:i])


def test_front_is_what_no_other_beats() -> None:
    sizes = [(3, 0.3), (1, 0.5), (2, 0.6), (4, 0.31), (5, 0.1)]
    points = [svg.Point(str(size), "Q4_K", size, kld, 0.0) for size, kld in sizes]
    assert [point.label for point in svg.front(points)] == ["1", "3", "5"]


FLIP = TaskFlip("arithmetic", False, f"What is 3 x 4? {EVIL}", "12", "12", f"13 {EVIL}")


def with_tasks(groups: int) -> QualityResult:
    """Results with many slices, a change in each and one flip."""
    scores = {f"slice {i}": TaskScore(10, 5 + i % 5, ChoiceScore(4, 2, 3, "acc_norm")) for i in range(groups)}
    shifts = {name: TaskShift(10, 2, 1, 1.0) for name in scores}
    made = result()
    small = msgspec.structs.replace(
        made.candidates[0],
        tasks=scores,
        task_shifts=shifts,
        task_shift=TaskShift(10 * groups, 2 * groups, groups, 0.0004),
        flips=(FLIP, msgspec.structs.replace(FLIP, gained=True)) * 30,
    )
    reference = msgspec.structs.replace(made.reference, tasks=scores, tasks_asked="plain")
    return msgspec.structs.replace(made, reference=reference, candidates=(small,), tasks_left_out=3)


@pytest.mark.parametrize("groups", [2, 17])
def test_tasks_have_intervals_p_and_what_flipped(groups: int) -> None:
    page = report.render(with_tasks(groups))
    parsed = Page(page)
    low, high = numbers.wilson(5, 10)
    assert f"5 of 10 {100 * low:.0f} to {100 * high:.0f} %" in parsed.text
    assert "−2 +1, p 1.00" in parsed.text and "p under 0.001" in parsed.text
    assert "acc 2, acc_norm 3 of 4" in parsed.text
    assert f"{2 * groups} lost, {groups} gained (the first 40 are shown)" in parsed.text
    assert parsed.tags.count("details") == 1 and parsed.text.count("Expected: 12") == 40
    assert "What is 3 x 4?" in parsed.text and "<script" not in page
    assert "three examples" in parsed.text and "3 tasks that are longer" in parsed.text


def test_results_of_before_open_still() -> None:
    new = {"task_shift", "task_shifts", "flips", "tasks_asked", "content"}
    old = {key: value for key, value in msgspec.to_builtins(candidate("Q4_K_M", 1, 0.1)).items() if key not in new}
    old["tasks"] = {"arithmetic": {"n": 150, "correct": 113}}
    read = msgspec.convert(old, CandidateQuality)
    assert read.tasks["arithmetic"] == TaskScore(150, 113) and read.flips == () and read.task_shift is None


def test_json_twin_is_plain_json() -> None:
    twin = report.document(result(), bench())
    again = json.loads(json.dumps(twin, allow_nan=False))
    assert msgspec.convert(again["quality"], QualityResult) == result()
    assert msgspec.convert(again["bench"], BenchResult) == bench()
    assert set(again) == {"quality", "bench", "answers", "outputs", "facts"}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0313, 0.00042, "0.03130 ± 0.00082"),
        (37.8509, 0.91, "37.9 ± 1.8"),
        (1234.0, 50.0, "1234 ± 98"),
        (0.0, 0.0, "0"),
        (0.5, 0.0, "0.500"),
    ],
)
def test_intervals(value: float, error: float, text: str) -> None:
    assert numbers.interval(Estimate(value, error)) == text


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"), [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962)]
)
def test_wilson(correct: int, n: int, low: float, high: float) -> None:
    """Published values of the Wilson interval at 95 %."""
    assert numbers.wilson(correct, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("count", "text"), [(10562048, "10.1 MiB"), (500, "500 B"), (4 << 30, "4.0 GiB"), (250 << 30, "250 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert numbers.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0032, "3.2 ms"), (0.25, "250 ms"), (12.34, "12.3 s"), (125.0, "2 min 5 s")]
)
def test_times(value: float | None, text: str) -> None:
    assert numbers.seconds(value) == text


def test_the_worst_passages_are_shaded_and_explained() -> None:
    tokens = (
        PassageToken(" calm", 0.0001, 0.9, 0.9, " calm", 0.9, " calm", 0.9),
        PassageToken(EVIL, 1.5, 0.5, 0.01, EVIL, 0.5, " other", 0.7),
    )
    passage = Passage("prose", 2, 300, 0.75, "before & after", tokens)
    change = Estimate(0.01, 0.001)
    each = candidate("Q2_K", 100, 0.1, passages=(passage,), shift=Shift(*[change] * 6), reverse_kld=Estimate(0.2, 0.01))
    html = report.render(result(candidates=(each,)))
    assert "Where it went worst" in html and "<script>" not in html
    shaded = re.findall(r'<span class="kld" style="--kld:(\d+)%" title="([^"]*)">', html)
    assert [strength for strength, _ in shaded] == ["87"]
    assert "1.5 nats" in shaded[0][1] and "with 70 %" in shaded[0][1]
    assert "window 3, tokens 301 to 302: 0.75 nats" in html
    assert "+1.0 to<br>+1.0 %" in html
    assert "Where it went worst" not in report.render(result())


def test_the_csv_table_has_every_figure_of_every_model() -> None:
    small = candidate("Q2_K", 100, 0.1, path="/models/=1+1.gguf", kv="q8_0", top5=Estimate(0.8, 0.01))
    rows = list(csv.DictReader(io.StringIO(figures.csv_table(result(candidates=(small,))))))
    assert [row["verdict"] for row in rows] == ["reference", "review"]
    assert rows[1]["file"] == "'=1+1.gguf", "no formula for a spreadsheet"
    assert (rows[1]["type"], rows[1]["kv"], rows[1]["bytes"]) == ("Q2_K", "q8_0", "100")
    assert float(rows[1]["kld_mean"]) == 0.1 and float(rows[1]["kld_mean_error"]) == 0.005
    assert float(rows[1]["kld_prose"]) == 0.1 and rows[1]["tasks_arithmetic_correct"] == "113"
    assert float(rows[1]["top5"]) == 0.8 and rows[0]["top5"] == "" == rows[1]["reverse_kld"]


def test_one_line_says_what_a_file_costs() -> None:
    each = candidate("Q4_K_M", 100, 0.0116)
    line = figures.badge(each, candidate("BF16", 400, 0.0), 7905)
    assert "\n" not in line and line.startswith("**Q4_K_M**: KL divergence 0.0116 ± 0.0011 nats")
    assert "93.00 ± 0.78 %" in line and "against BF16 (7,905 tokens" in line
    page = report.render(result(candidates=(each,), reference=candidate("BF16", 400, 0.0), tokens=7905))
    assert f"<code>{line}</code>" in page


def as_read(found: QualityResult) -> object:
    """What the JSON twin of a report has."""
    return json.loads(json.dumps(report.document(found, facts=report.facts_here())))


@pytest.mark.parametrize("theirs", [b"", b'{"reference": {"path": "m.gguf"}}\n', b"file,kind\n"])
def test_a_twin_takes_no_other_files_place(tmp_path: Path, theirs: bytes) -> None:
    """``--json > q.json --report q.html``: q.json is there, and empty until the command has ended."""
    for suffix in (".json", ".csv"):
        (tmp_path / f"q{suffix}").write_bytes(theirs)
    found = result(candidates=(candidate("Q2_K", 100, 0.1),))
    notes = write_report(found, tmp_path / "q.html")
    assert notes == [f"q{s} is something else: the report's is q.report{s}." for s in (".json", ".csv")]
    for suffix in (".json", ".csv"):
        assert (tmp_path / f"q{suffix}").read_bytes() == theirs
    assert json.loads((tmp_path / "q.report.json").read_bytes()) == json.loads(
        json.dumps(report.document(found, facts=report.facts_here()))
    )
    assert (tmp_path / "q.report.csv").read_text("utf-8") == figures.csv_table(found)


def test_a_report_replaces_its_own_earlier_twins(tmp_path: Path) -> None:
    assert write_report(result(candidates=(candidate("Q2_K", 100, 0.1),)), tmp_path / "q.html") == []
    again = result(candidates=(candidate("Q8_0", 200, 0.01),))
    assert write_report(again, tmp_path / "q.html") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.csv", "q.html", "q.json"]
    assert json.loads((tmp_path / "q.json").read_bytes()) == json.loads(
        json.dumps(report.document(again, facts=report.facts_here()))
    )
    assert (tmp_path / "q.csv").read_text("utf-8") == figures.csv_table(again)
