"""`emu check RUN`: exit codes, the table of all invariants, the story of what was broken, and what is written beside."""

import dataclasses
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from emu.check.history import History
from emu.check.invariants import INVARIANTS
from emu.check.shown import IDLE, lacking
from emu.check.simulator.run import Subject, simulate
from emu.cli import main
from emu.cli.check import judged
from emu.history.journal import Kind
from emu.history.manifest import write_manifest
from emu.history.oplog import OpLog
from emu.protocols import registry
from emu.protocols.contract import declaration

SEED = 2  # a story with DMA, revokes and reclaims that succeed
ALL = [invariant.name for invariant in INVARIANTS]


def written(folder, protocol, seed=SEED, **meta):
    history = simulate(Subject(registry.load().get(protocol)), seed).history
    history.meta.update(meta)
    history.write(folder)
    history.finish(folder)
    return str(folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return written(tmp_path_factory.mktemp("kept") / "run", "mr-revoke")


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    return written(tmp_path_factory.mktemp("cost") / "run", "none")


def rows(text):
    """name -> the rest of its line in the table."""
    return dict(re.findall(r"^  ([SV]\d+) +(.*)$", text, re.MULTILINE))


def test_a_run_that_kept_its_promises_is_0_and_every_invariant_has_a_line(kept, capsys):
    assert main(["check", kept]) == 0
    out = capsys.readouterr().out
    assert "holds (simulated run" in out.splitlines()[0]
    assert "judged against what mr-revoke promises" in out.splitlines()[0]
    found = rows(out)
    assert list(found) == ALL
    assert len(ALL) == 35
    assert found["S1"].startswith("kept      promised")
    assert found["V8"].startswith("untested")
    assert all(": " in line for line in found.values() if line.startswith("untested"))


def test_what_was_not_promised_and_is_broken_is_a_cost_with_its_story_and_0(cost, capsys):
    assert main(["check", cost]) == 0
    out = capsys.readouterr().out
    assert rows(out)["V4"].startswith("cost ")
    story = out[out.index("\nV4 cost: ") :].split("\n\n")[0]
    assert re.search(r"holder\d +-> broker: asks: reg_mr, bytes 0 to \d+ of /mnt/a", story)
    assert re.search(r"-> engine: installs key 0x[0-9a-f]+ over blocks \d+-", story)
    assert "frees blocks" in story


def test_the_same_run_against_another_protocols_promises_is_a_breach_and_1(cost, capsys):
    assert main(["check", cost, "--protocol", "mr-revoke"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].split(": ")[1].startswith("breach")
    assert rows(out)["V4"].startswith("breach    promised")


def test_an_alias_is_as_good_as_a_name(kept):
    assert main(["check", kept, "--protocol", "revoke"]) == 0


def test_without_a_declaration_nothing_is_known_and_2(tmp_path, capsys):
    run = written(tmp_path / "run", "mr-revoke", declared=None)
    assert main(["check", run]) == 2
    assert "nobody says what was promised; use --protocol NAME" in capsys.readouterr().out
    assert main(["check", run, "--protocol", "mr-revoke"]) == 0


def left(tmp_path, change):
    """A run whose lines were changed: nothing but its lines is left."""
    history = simulate(Subject(registry.load().get("mr-revoke")), SEED).history
    lines = change([dict(line) for line in history.events])
    meta = {**history.meta, "declared": declaration(registry.load().get("mr-revoke"))}
    run = replace(history, meta=meta, events=lines, logs=[EMPTY], journals={}, filemap={}, image=b"")
    run.write(tmp_path / "run")
    run.finish(tmp_path / "run")
    return str(tmp_path / "run")


EMPTY = OpLog(thread=0, quantum=4096, capacity=1024, written=0, missing=0, records=())


def without_dma(lines):
    return [{**line, "inflight": 0} if "inflight" in line else line for line in lines]


def boot_alone(lines):
    return lines[: next(n for n, line in enumerate(lines) if line["type"] == "Requested")]


def in_front_of_its_quiesced(lines):
    """The last reclaim's fence was ordered, and the history ends."""
    last = max(line["n"] for line in lines if line.get("phase") == "fencing")
    quiesce = next(n for n in range(last, len(lines)) if lines[n]["type"] == "Quiesce")
    return lines[: next(n for n in range(quiesce, len(lines)) if lines[n]["kind"] == "event")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_dma, "no reclaim of pinned memory had DMA in flight when it was requested"),
        (boot_alone, "no reclaim of pinned memory had DMA in flight when it was requested"),
        (in_front_of_its_quiesced, "S7 is promised, and the history ends while a reclaim waits for the answer to Quiesce"),
    ],
)  # fmt: skip
def test_a_run_that_could_not_have_shown_a_breach_is_unknown_and_2(tmp_path, capsys, change, says):
    run = left(tmp_path, change)
    assert main(["check", run, "--json", str(tmp_path / "r.json")]) == 2
    out = capsys.readouterr().out
    assert "unknown (simulated run" in out.splitlines()[0]
    assert f"  unknown: {says}" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["verdict"] == "unknown"
    assert any(why.startswith(says) for why in result["why"])


def test_a_control_that_was_meant_to_be_idle_is_judged_all_the_same():
    history = simulate(Subject(registry.load().get("mr-revoke")), SEED).history
    idle = replace(history, events=without_dma(history.events))
    assert lacking(idle, ()) == [IDLE]
    assert lacking(replace(idle, row={"dma": False}), ()) == []


def test_a_breach_is_one_whatever_is_not_known(cost):
    history = History.read(cost)
    idle = replace(history, events=without_dma(history.events))
    result = judged("run", idle, declaration(registry.load().get("mr-revoke")), registry.load().protocols)
    assert (result["verdict"], result["why"]) == ("breach", [])


def test_a_broken_folder_is_2_and_says_what_is_missing(tmp_path, capsys):
    run = written(tmp_path / "run", "mr-revoke")
    (tmp_path / "run" / "oplog-0.bin").unlink()
    assert main(["check", run]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"emu: check {run}: EUCLEAN: oplog-0.bin is missing")
    assert error.count("\n") == 1


def test_a_folder_that_is_none_is_2(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nope")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name the folder of a run"),
        (["RUN", "--protocol", "nope"], "protocol 'nope' is unknown"),
        (["RUN", "--json", "/nowhere/x.json"], "choose a file that can be written"),
    ],
)
def test_usage_is_64_and_told_before_anything_is_judged(kept, arguments, says, capsys):
    assert main(["check", *(kept if word == "RUN" else word for word in arguments)]) == 64
    assert says in capsys.readouterr().err


def test_the_json_has_every_invariant_and_the_story_of_each_breach(cost, tmp_path, capsys):
    target = tmp_path / "result.json"
    assert main(["check", cost, "--json", str(target), "--protocol", "mr-revoke"]) == 1
    capsys.readouterr()
    result = json.loads(target.read_text())
    assert (result["schema"], result["verdict"], result["protocol"]) == (1, "breach", "mr-revoke")
    assert [row["name"] for row in result["invariants"]] == ALL
    broken = [row for row in result["invariants"] if row["breaches"]]
    assert {row["verdict"] for row in broken} <= {"breach", "cost"}
    lines = {line["n"] for line in History.read(cost).events}
    for row in broken:
        for breach in row["breaches"]:
            assert set(breach["lines"]) <= lines
            assert all(
                set(told) == {"ref", "time", "lane", "to", "words", "kind"} for told in breach["story"]
            )
            named = {told["ref"] for told in breach["story"]}
            assert {f"line {n}" for n in breach["lines"]} <= named


def test_json_on_stdout_leaves_the_table_to_stderr(kept, capsys):
    assert main(["check", kept, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "holds"
    assert rows(err)


def test_a_story_stands_in_the_order_of_epochs_and_ends_with_the_breach(cost, tmp_path, capsys):
    main(["check", cost, "--json", str(tmp_path / "r.json")])
    capsys.readouterr()
    epochs = {f"line {line['n']}": line["epoch"] for line in History.read(cost).events}
    result = json.loads((tmp_path / "r.json").read_text())
    stories = [breach["story"] for row in result["invariants"] for breach in row["breaches"]]
    assert stories
    for story in stories:
        order = [epochs[told["ref"]] for told in story if told["ref"] in epochs]
        assert order == sorted(order)


class Page(HTMLParser):
    """Which tags open and close, and what they load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_draws_each_story(cost, tmp_path, capsys):
    target = tmp_path / "page.html"
    main(["check", cost, "--html", str(target)])
    capsys.readouterr()
    text = target.read_text()
    page = Page()
    page.feed(text)
    assert (page.open, page.loads) == ([], [])
    assert page.tags.count("svg") >= 2
    assert "Space-time diagram: " in text
    assert all(f'<th scope="row">{name}</th>' in text for name in ALL)


def test_words_of_a_history_cannot_break_out_of_the_page(tmp_path, capsys):
    folder = tmp_path / "<b>run"
    run = written(folder, "none")
    main(["check", run, "--html", str(tmp_path / "page.html")])
    capsys.readouterr()
    assert "<b>run" not in (tmp_path / "page.html").read_text()


def test_two_checks_of_one_run_say_the_same(cost, tmp_path, capsys):
    for name in ("one", "two"):
        main(["check", cost, "--json", str(tmp_path / name)])
    capsys.readouterr()
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()


def test_an_edited_line_behind_a_new_manifest_is_still_not_judged_as_if_nothing_had_been(tmp_path, capsys):
    run = tmp_path / "run"
    written(run, "mr-revoke")
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    at = next(n for n, line in enumerate(lines) if line["type"] == "Phase" and line["phase"] == "returned")
    lines[at]["detail"]["errno"] = 16
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(run)
    assert main(["check", str(run)]) in {1, 2}
    capsys.readouterr()


# ---- the trace


def test_the_trace_has_a_track_for_everybody_and_nothing_outside_its_process(cost, tmp_path, capsys):
    target = tmp_path / "trace.json"
    main(["check", cost, "--perfetto", str(target)])
    capsys.readouterr()
    history, trace = History.read(cost), json.loads(target.read_text())
    events = trace["traceEvents"]
    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in events
        if e["ph"] == "M" and e["name"] == "thread_name"
    }
    tracks = set(names.values())
    assert set(history.journals) <= tracks
    assert any(name.startswith("reclaim 1") for name in tracks)
    assert "thread 0: quanta" in tracks
    for event in events:
        assert event["ph"] in {"M", "X", "i"}
        if event["ph"] != "M":
            assert (event["pid"], event["tid"]) in names
            assert event["ts"] >= 0
            assert event.get("dur", 0) >= 0


def test_the_trace_leaves_nothing_out(cost, tmp_path, capsys):
    target = tmp_path / "trace.json"
    main(["check", cost, "--perfetto", str(target)])
    capsys.readouterr()
    history, events = History.read(cost), json.loads(target.read_text())["traceEvents"]
    drawn = [event for event in events if event["ph"] != "M"]
    by_process = {pid: [event for event in drawn if event["pid"] == pid] for pid in (1, 2, 3, 4)}
    assert len(by_process[1]) == len(history.events)
    assert sum(e["name"] in {"requested", "returned", "ended"} for e in by_process[2]) == sum(
        line["phase"] in {"requested", "returned", "ended"} for line in history.of("Phase")
    )
    assert len(by_process[3]) == sum(len(log.records) for log in history.logs)
    receipts = [record for journal in history.journals.values() for record in journal.records]
    assert len(by_process[4]) == sum(
        record.kind != Kind.RETURNED for record in receipts
    )  # a call is one slice


# ---- a bounded history keeps its head and its newest tail


def with_gap(folder, out, first, last):
    """The same run without its lines first to last."""
    history = History.read(folder)
    lines = [line for line in history.events if not first <= line["n"] <= last]
    history = dataclasses.replace(history, events=lines)
    history.write(out)
    history.finish(out)
    return str(out)


@pytest.mark.parametrize(("begin", "end"), [(0.1, 0.3), (0.2, 0.8), (0.5, 0.6), (0.6, 0.95)])
def test_a_correct_broker_is_not_accused_for_lines_that_are_missing(kept, tmp_path, capsys, begin, end):
    count = len(History.read(kept).events)
    first, last = int(begin * count), int(end * count)
    assert main(["check", with_gap(kept, tmp_path / "run", first, last)]) == 2
    out = capsys.readouterr().out
    assert ": unknown (" in out.splitlines()[0]
    lost = last - first + 1
    assert {name: why.split()[0] for name, why in rows(out).items()} == dict.fromkeys(ALL, "untested")
    assert all(f"{lost} lines are missing" in why for why in rows(out).values())


def test_foreign_bytes_are_seen_across_a_gap(cost, tmp_path, capsys):
    count = len(History.read(cost).events)
    run = with_gap(cost, tmp_path / "run", count // 4, count // 2)
    assert main(["check", run, "--protocol", "mr-revoke"]) == 1
    found = rows(capsys.readouterr().out)
    assert found["S1"].startswith("breach")
    assert {why.split()[0] for name, why in found.items() if name != "S1"} == {"untested"}


def test_a_protocol_that_promises_nothing_does_not_hold_across_a_gap(cost, tmp_path):
    count = len(History.read(cost).events)
    assert main(["check", with_gap(cost, tmp_path / "run", count // 4, count // 2)]) == 2


def test_a_folder_above_the_runs_is_2_and_names_them(tmp_path, capsys):
    for name in ("row-a", "row-b"):
        (tmp_path / name / "run-1").mkdir(parents=True)
        (tmp_path / name / "run-1" / "meta.json").write_text("{}")
    assert main(["check", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"is no run, it has some: check {tmp_path}/row-a/run-1, {tmp_path}/row-b/run-1" in error
