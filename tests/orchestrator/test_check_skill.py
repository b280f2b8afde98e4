from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.orchestrator.critic import cited_numbers
from cartrita.orchestrator.skills import Answer, Brief, Input, Outcome, Unable, Use, all_skills
from cartrita.orchestrator.skills.check import MOST_SEARCHES, MOST_SENTENCES, check
from cartrita.orchestrator.skills.check.asking import asked
from cartrita.orchestrator.skills.check.claims import compare, statements_of
from cartrita.orchestrator.skills.check.faults import faults_of
from cartrita.orchestrator.skills.check.quantities import read

TERMS = """# Returns

Customers may return goods within 14 days of delivery. Gift cards cannot be returned. Refunds are paid within
7 days if the goods are unused.

# Orders

The minimum order is 20 euros and the maximum order 500 euros. Delivery costs €5 per order. The VAT rate is
19 %. Orders above 100 euros are insured. The warranty lasts at least 24 months.

# Company

The company was founded in 1998 by Ada Brown. The ferry leaves at 7:45. Trainees get 20 days of holiday in
their first year. Senior staff receive 30 days of paid leave. The budget was 5.2 million euros. Turnover grew
to 1,250,000 euros in 2023. Parking is free on Sundays. The notice period is two weeks.

# Plans

| Plan | Storage | Price |
| --- | --- | --- |
| Basic | 10 GB | 5 € |
| Large | 100 GB | 12 € |

| Room | Seats | Desks |
| --- | --- | --- |
| Oak | 12 | 4 |
"""


def passage(text: str = TERMS, title: str = "terms.md", start: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "document_id": f"id of {title}",
        "title": title,
        "heading": "",
        "start": start,
        "end": start + len(text),
        "page": None,
        "score": 0.5,
        "text": text,
    } | more


def found(*passages: dict[str, Any]) -> Outcome:
    return Outcome(tool="search_documents", result={"passages": list(passages)})


def checked(intent: str, *passages: dict[str, Any], inputs: Sequence[Input] = ()) -> Answer:
    """Let every search return these passages, and return the answer."""
    outcomes: list[Outcome] = []
    while isinstance(move := check(Brief(intent=intent, inputs=inputs, outcomes=outcomes)), Use):
        outcomes.append(found(*passages))
    assert isinstance(move, Answer)
    return move


class TestWhatIsHandedOver:
    @pytest.mark.parametrize(
        ("intent", "text"),
        [
            ("Check this claim: The rate is 19 %.", "The rate is 19 %."),
            ("Is “The rate is 19 %.” true?", "The rate is 19 %."),
            ("Check the grammar of 'She don't like apples'", "She don't like apples"),
            ("Prüfe „Der Satz ist 19 %.“", "Der Satz ist 19 %."),
            ("Vérifie « Le taux est de 19 %. »", "Le taux est de 19 %."),
            ("Is this right? The rate is 19 %.", "The rate is 19 %."),
            ("Is this right? 'The rate is 19 %.'", "The rate is 19 %."),
            ("Check this:\n```\nThe rate: 19 %.\n```\n", "The rate: 19 %."),
            ("```\nThe rate is 19 %.\n```\nIs it true?", "The rate is 19 %."),
            ("Check this text: It says\n```\ncode\n```\nand ends.", "It says\n```\ncode\n```\nand ends."),
            ("assess the draft below\n\nNote: Come on Friday.", "Note: Come on Friday."),
            ("The rate is 19 %.\n\nIs this true?", "The rate is 19 %."),
            ('Check "Report 3" for errors: The rate is 19 %.', "The rate is 19 %."),
            ('Check this: He said "hello" at 7:45 and left.', 'He said "hello" at 7:45 and left.'),
            ("Check the 7:45 claim: It leaves.", "It leaves."),
            ('Fact-check this: "The rate is 19 %." Is it in the handbook?', "The rate is 19 %."),
        ],
    )
    def test_is_found(self, intent: str, text: str) -> None:
        request = asked(intent)
        assert request is not None
        assert request.text == text

    @pytest.mark.parametrize(
        "intent",
        ["Review my cover letter", "Check this:", "Is it right?", "", "Check: ...", '""', "```\n```"],
    )
    def test_is_missing(self, intent: str) -> None:
        move = check(Brief(intent=intent))
        assert isinstance(move, Unable)
        assert move.code == "nothing_to_check"
        assert "after a colon" in move.reason

    def test_is_the_first_earlier_result_otherwise(self) -> None:
        inputs = [Input(intent="a", agent="a", text=" "), Input(intent="b", agent="a", text="It is 5 [1].")]
        move = check(Brief(intent="Is it supported? Be honest.", inputs=inputs))
        assert move == Use("search_documents", {"query": "It is 5."})

    @pytest.mark.parametrize(
        ("intent", "form_only"),
        [
            ("Proofread this: x", True),
            ("Is the tone of this e-mail polite? x", True),
            ("Criticise the following argument: x", True),
            ("Korrigiere die Rechtschreibung: x", True),
            ("Please correct my French: x", True),
            ("Do these contradict each other: x", True),
            ("Check spelling and facts: x", False),
            ("Does this argument match the report? x", False),
            ("Check my summary against the report for errors: x", False),
            ("Is my claim supported: x", False),
            ("Ist diese Aussage belegt: x", False),
            ("Check this: style is all", False),
        ],
    )
    def test_is_about_form_alone_only_where_nothing_else_is_asked(self, intent: str, form_only: bool) -> None:
        request = asked(intent)
        assert request is not None
        assert request.form_only is form_only


class TestComparison:
    @pytest.mark.parametrize(
        "sentence",
        [
            "Goods may be returned within 14 days of delivery.",
            "Customers can return goods within fourteen days.",
            "The VAT rate is 19%.",
            "Delivery costs 5 euros per order.",
            "The company was founded in 1998.",
            "The company was founded by Ada Brown in 1998.",
            "The ferry leaves at 7:45.",
            "Turnover grew to €1.250.000 in 2023.",
            "The Basic plan has 10 GB of storage.",
            "Gift cards cannot be returned.",
            "The warranty lasts at least 24 months.",
            "According to the document, the notice period is 2 weeks.",
        ],
    )
    def test_supports(self, sentence: str) -> None:
        assert compare(sentence, statements_of([passage()])).kind == "supported"

    @pytest.mark.parametrize(
        ("sentence", "claimed", "instead"),
        [
            ("Goods may be returned within 30 days.", "30 days", "14 days"),
            ("Customers can return goods within thirty days of delivery.", "thirty days", "14 days"),
            ("The VAT rate is 21 %.", "21 %", "19 %"),
            ("Delivery costs 7 € per order.", "7 €", "€5"),
            ("The company was founded in 2001 by Ada Brown.", "2001", "1998"),
            ("The ferry leaves at 8:15.", "8:15", "7:45"),
            ("The warranty lasts at least 36 months.", "36 months", "24 months"),
            ("The notice period is 4 weeks.", "4 weeks", "two weeks"),
            ("The Basic plan has 20 GB of storage.", "20 GB", "10 GB"),
        ],
    )
    def test_names_the_other_figure(self, sentence: str, claimed: str, instead: str) -> None:
        finding = compare(sentence, statements_of([passage()]))
        assert (finding.kind, finding.claimed, finding.instead) == ("contradicted", claimed, instead)

    @pytest.mark.parametrize(
        "sentence",
        [
            # Turned round, or limited otherwise.
            "Goods cannot be returned within 14 days.",
            "Gift cards can be returned.",
            "Refunds are paid within 7 days.",
            "Refunds are paid within 9 days.",
            "The warranty lasts 24 months.",
            "The warranty lasts at most 36 months.",
            "All customers may return goods within 14 days.",
            # The other figure of the same sentence.
            "The maximum order is 20 euros.",
            "The minimum order is 500 euros.",
            # What may be another case.
            "Trainees get 25 days of holiday.",
            "Staff receive 25 days of paid leave.",
            "The Huge plan has 20 GB of storage.",
            "Orders above 200 euros are insured by law.",
            # Rounded.
            "The budget was 5 million euros.",
            # Of another year.
            "Turnover grew to 1,250,000 euros in 2022.",
            # A bare figure in a table.
            "The room Oak has 4 seats.",
            # Other words, other things.
            "Shipping takes 3 days.",
            "Parking is free.  On Mondays nobody comes.",
            "The moon is 384400 km away.",
            "Chocolate cures colds.",
            "19 %",
            "…",
        ],
    )
    def test_leaves_open_what_is_not_sure(self, sentence: str) -> None:
        assert compare(sentence, statements_of([passage()])).kind == "unknown"

    @pytest.mark.parametrize(
        ("sentence", "document"),
        [
            ("The rate is 19 %.", "It is a myth that the rate is 19 %."),
            ("The base rate is 19 %.", "Is the base rate 19 %?"),
            ("The base rate is 19 %.", "The base rate would be 19 %."),
            ("The base rate is 19 %.", "The base rate is up to 25 %."),
            ("The base rate is 19 %.", "The reduced base rate is 7 %."),
            ("The water temperature is 5 degrees.", "The water temperature is -5 degrees."),
            ("The water temperature is 5 degrees.", "The water temperature is no more than 9 degrees."),
            ("Leave is 30 days.", "Sick leave is 10 days."),
            ("The notice period is 14 days.", "The notice period is 20 working days."),
            ("Article 5 names the notice period.", "Article 7 names the notice period."),
            ("In 2022 the club won the cup.", "In 2023 the club won the cup."),
            ("The club won 3 cups in 2022.", "The club won 4 cups in 2023."),
            ("The office opens at 9:00.", "The office opens at 8:00 on Mondays."),
            ("The buyer pays the seller.", "The seller pays the buyer."),
        ],
    )
    def test_takes_nothing_for_sure_that_is_not(self, sentence: str, document: str) -> None:
        assert compare(sentence, statements_of([passage(document)])).kind == "unknown"

    def test_leaves_open_where_documents_differ(self) -> None:
        others = [passage(f"The fee of the club is {fee} euros.", f"{fee}.md") for fee in (10, 12)]
        assert compare("The fee of the club is 15 euros.", statements_of(others)).kind == "unknown"
        assert compare("The fee of the club is 15 euros.", statements_of(others[:1])).kind == "contradicted"

    def test_leaves_open_where_the_figure_stands_elsewhere(self) -> None:
        others = [
            passage("The club fee is 10 euros.", "a.md"),
            passage("Club fee: 15 euros if late.", "b.md"),
        ]
        assert compare("The club fee is 15 euros.", statements_of(others)).kind == "unknown"

    def test_names_the_nearest_statement(self) -> None:
        finding = compare("Goods cannot be returned within 14 days.", statements_of([passage()]))
        assert finding.statement is not None
        assert finding.statement.text.startswith("Customers may return goods")


class TestReading:
    @pytest.mark.parametrize(
        ("text", "quantities"),
        [
            ("14 days", [("day", [14])]),
            ("a 30-day trial", [("day", [30])]),
            ("EUR 1,200.50", [("€", ["1200.50"])]),
            ("1.200 €", [("€", [1200, "1.2"])]),
            ("10GB", [("gb", [10])]),
            ("Article 5 and room 12", [("#article", [5]), ("#room", [12])]),
            ("since 1998", [("(year)", [1998])]),
            ("at 7:45", [("(time)", [465])]),
            ("14-30 days", [("day", [14]), ("day", [30])]),
            ("twenty percent", [("%", [20])]),
            ("one day", []),
            ("9" * 60, []),
        ],
    )
    def test_finds_figures_with_what_they_count(self, text: str, quantities: list[Any]) -> None:
        found = [(each.unit, sorted(map(float, each.readings))) for each in read(text).quantities]
        assert found == [(unit, sorted(map(float, numbers))) for unit, numbers in quantities]


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("We went to the the house.", "A word stands twice: “We went to the the house.”."),
            ("We saw the results results of it.", "A word stands twice"),
            ("It is (as we said very big.", "A bracket is not closed"),
            ("He said “come here and left.", "A quotation mark is not closed"),
            ('He said "come here and left.', "A quotation mark is not closed"),
            ("Er sagte „komm her und ging.", "A quotation mark is not closed"),
            ("Look:\n```\nx = 1\n", "A code block is not closed."),
            ("We came home. We ate all of it and slept", "A sentence has no end mark: “"),
            ("There are two  blanks.", "There are two blanks between words"),
            ("We came home. then we slept.", "A sentence begins with a small letter: “We came home. then we"),
            ("we came home and then we slept.", "A sentence begins with a small letter"),
        ],
    )
    def test_are_found(self, text: str, said: str) -> None:
        (fault,) = faults_of(text)
        assert fault.startswith(said)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "We know that that is so, and that he had had enough.",
            "Die, die die Tür schließen, gehen. Vous vous trompez.",
            "It is (as we said) big [1]. 1) one 2) two :( and a :) too.",
            "He said “come here” and left. He is 6' 2\" tall.",
            "“A long speech begins here and goes on.\n\n“It ends here, after all of it.”",
            "Dear Tom,\n\nThank you for it.\n\nBest regards\nAnn",
            "# A heading of several words\n\n- an item without an end\n\n| a  b | c |\n| --- | --- |",
            "See e.g. the first page, approx. five lines, etc. and so on.",
            "Run this:\n\n```\nx  =  (1\n```\n\nIt ends.  Then it begins. iPhone users know.",
            "Name    Age",
        ],
    )
    def test_are_not_seen_where_there_are_none(self, text: str) -> None:
        assert faults_of(text) == []


class TestCheckSkill:
    def test_is_registered(self) -> None:
        assert all_skills()["check"] is check

    def test_looks_up_one_sentence_after_the_other(self) -> None:
        intent = "Check these claims: Hello there. The VAT rate is 19 %. It was Ada Brown. Use E_404 here."
        outcomes: list[Outcome] = []
        queries = []
        while isinstance(move := check(Brief(intent=intent, outcomes=outcomes)), Use):
            queries.append(move.arguments["query"])
            outcomes.append(found())
        assert queries == ["The VAT rate is 19 %.", "It was Ada Brown.", "Use E_404 here."]

    def test_searches_a_few_times_at_most(self) -> None:
        claims = " ".join(f"It is {number} metres long." for number in range(2, 42))
        intent = f"Check this claim: {claims}"
        outcomes: list[Outcome] = []
        while isinstance(check(Brief(intent=intent, outcomes=outcomes)), Use):
            outcomes.append(found(passage()))
        assert len(outcomes) == MOST_SEARCHES
        answer = checked(intent, passage())
        assert "not looked up" in answer.text
        assert answer.result == {"supported": 0, "contradicted": 0, "unknown": MOST_SENTENCES, "faults": 0}
        assert "10 more sentences were not looked at" in answer.text

    def test_lists_what_the_documents_say(self) -> None:
        answer = checked(
            "Check this: The VAT rate is 19 %. Goods may be returned within 30 days. The moon is 9 km away. "
            "The the VAT rate is 19 %.",
            passage(start=100),
        )
        assert answer.result == {"supported": 2, "contradicted": 1, "unknown": 1, "faults": 1}
        lines = answer.text.splitlines()
        assert "- “The VAT rate is 19 %.” – **supported**: “The VAT rate is 19 %.” [1]" in lines
        assert (
            "- “Goods may be returned within 30 days.” – **the document says 14 days, not 30 days**: "
            "“Customers may return goods within 14 days of delivery.” [2]" in lines
        )
        assert cited_numbers(answer.text) == [1, 2]
        assert [one["title"] for one in answer.citations] == ["terms.md"] * 2
        for one in answer.citations:
            assert TERMS[one["start"] - 100 : one["end"] - 100] == one["text"]
            assert one.keys() == {"document", "title", "start", "end", "page", "text"}

    def test_says_that_there_are_no_documents(self) -> None:
        answer = checked("Check this claim: The the VAT rate is 19 %.")
        assert answer.text.startswith("No document was found")
        assert "A word stands twice" in answer.text
        assert answer.result == {"supported": 0, "contradicted": 0, "unknown": 1, "faults": 1}
        assert answer.citations == ()

    def test_tells_faults_of_form_and_that_nothing_else_was_looked_for(self) -> None:
        move = check(Brief(intent="Check the spelling: We went to the the house."))
        assert isinstance(move, Answer)
        assert "A word stands twice" in move.text
        assert "need a model" in move.text
        assert move.result["faults"] == 1

    def test_needs_a_model_for_the_rest_of_form(self) -> None:
        move = check(Brief(intent="Proofread this: We recieved it."))
        assert isinstance(move, Unable)
        assert move.code == "needs_model"
        assert "doubled words" in move.reason

    def test_tells_why_a_search_failed(self) -> None:
        failed = Outcome(tool="search_documents", result=None, code="denied", message="Not now.")
        move = check(Brief(intent="Check this claim: The VAT rate is 19 %.", outcomes=[failed]))
        assert move == Unable("denied", "Not now.")

    def test_shows_no_number_of_a_passage_as_a_citation(self) -> None:
        answer = checked("Check this claim: The fee is 10 euros.", passage("The fee is 10 euros [7]."))
        assert cited_numbers(answer.text) == [1]


HOSTILE = st.text(max_size=300) | st.text(alphabet="`\"'“”„«»()[]:?.,!|\n -19%€aAéß", max_size=300)


class TestAnyText:
    @given(HOSTILE, HOSTILE)
    def test_is_checked_without_failing(self, intent: str, document: str) -> None:
        for text in (intent, f"Check this claim: {intent}", f"Proofread: {intent}"):
            outcomes: list[Outcome] = []
            while isinstance(move := check(Brief(intent=text, outcomes=outcomes)), Use):
                assert move.arguments["query"].strip()
                outcomes.append(found(passage(document), passage()))
            if isinstance(move, Answer):
                assert cited_numbers(move.text) == list(range(1, len(move.citations) + 1))

    @given(HOSTILE)
    def test_cites_what_stands_in_the_document(self, document: str) -> None:
        for statement in statements_of([passage(document)]):
            assert document[statement.start : statement.end] == statement.text

    @pytest.mark.parametrize(
        "repeated",
        ["a", "1", " ", "\n", "(", '"', "“", "'", "`", "```\n", ":", ": ", "? ", "\n \n", "a a ",
         "the the ", "a.b", "1.", "1,000", "9:45 ", "a. b", "| ", "|-", "it is 5 € and ", "no  ",
         "- a\n", "[1] ", "~~~\n", "Is it? ", "\x00", "# a\n", "five days ", "It is 5 days long. "],
    )  # fmt: skip
    def test_is_checked_at_once_however_long(self, repeated: str) -> None:
        text = (repeated * 32 * 1024)[: 32 * 1024]
        for intent in (text, f"Check this claim: {text}", f"Proofread this: {text}!"):
            outcomes: list[Outcome] = []
            while isinstance(check(Brief(intent=intent, outcomes=outcomes)), Use):
                outcomes.append(found(passage(text[:4000]), passage()))
            assert len(outcomes) <= MOST_SEARCHES
