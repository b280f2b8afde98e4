import pytest

from cartrita.eventstore import derived_id, new_id
from retrieval.answers import NOTHING_SAID, check_support, extract_answer
from retrieval.chunking import divide
from retrieval.embedding import encoder
from retrieval.parsing.readers import read_markdown
from retrieval.search import Hit

MANUAL = """# Greenhouse manual

## Watering

The tomatoes are watered at 6 in the morning. Basil needs less water than tomatoes. In July the tank is filled
twice a week.

## Sensors

| sensor | model | place |
| --- | --- | --- |
| humidity | HX-200 | north wall |
| temperature | TX-31 | above the door |
| light | LX-7 | roof |

## Rules

The greenhouse has three rules:

- The door stays closed at night.
- Nobody smokes inside.
- Tools return to the shelf.

## Repairs

Call Maria Lopez when the pump fails. Her number is 555-0199. The pump was last replaced in March 2021.
"""


def hits_of(text: str, title: str = "manual.md") -> list[Hit]:
    """Return all passages of a document as hits, as a search that finds everything gives them."""
    parsed = read_markdown(text.encode())
    document_id = derived_id(new_id(), title)
    return [
        Hit(
            chunk_id=new_id(),
            document_id=document_id,
            title=title,
            heading=chunk.heading,
            start=chunk.start,
            end=chunk.end,
            text=parsed.text[chunk.start : chunk.end],
            page=None,
            score=0.5,
            lexical=None,
            dense=None,
        )
        for chunk in divide(parsed)
    ]


class TestExtractAnswer:
    @pytest.mark.parametrize(
        ("question", "said"),
        [
            ("When are the tomatoes watered?", "The tomatoes are watered at 6 in the morning."),
            ("Whom do I call when the pump fails?", "Call Maria Lopez when the pump fails."),
            ("Where is the humidity sensor?", "humidity; HX-200; north wall"),
            ("How often is the tank filled in July?", "In July the tank is filled twice a week."),
        ],
    )
    def test_gives_the_sentence_or_row_that_answers(self, question: str, said: str) -> None:
        answer = extract_answer(question, hits_of(MANUAL))
        assert answer.supported
        assert said in answer.text

    def test_cites_every_unit_by_its_place(self) -> None:
        answer = extract_answer(
            "When are the tomatoes watered, and who is called for the pump?", hits_of(MANUAL)
        )
        assert answer.citations
        for number, citation in enumerate(answer.citations, 1):
            assert MANUAL[citation.start : citation.end] == citation.text
            assert f"[{number}]" in answer.text
        assert check_support(answer.text.replace("[", "").replace("]", ""), [MANUAL, "1 2 3 4 5 6"]) == []

    def test_answers_each_part_of_a_compound_question(self) -> None:
        answer = extract_answer(
            "When are the tomatoes watered, and who is called when the pump fails?", hits_of(MANUAL)
        )
        first, second = answer.text.split("\n\n")
        assert "6 in the morning" in first
        assert "Maria Lopez" in second

    def test_names_the_part_that_the_documents_do_not_answer(self) -> None:
        answer = extract_answer(
            "When are the tomatoes watered, and what is the capital of Australia?", hits_of(MANUAL)
        )
        assert answer.supported
        assert "The documents do not say: what is the capital of Australia?" in answer.text

    def test_gives_the_whole_list_that_is_asked_for(self) -> None:
        answer = extract_answer("Which rules does the greenhouse have?", hits_of(MANUAL))
        for rule in (
            "The door stays closed at night.",
            "Nobody smokes inside.",
            "Tools return to the shelf.",
        ):
            assert rule in answer.text

    @pytest.mark.parametrize(
        "question",
        [
            "What is the capital of Australia?",
            "How do I configure LDAP?",
            "What does the refund policy say about subscriptions?",
            "Who won the football world cup in 2014?",
        ],
    )
    def test_says_when_the_documents_do_not_say(self, question: str) -> None:
        answer = extract_answer(question, hits_of(MANUAL))
        assert (answer.text, answer.citations, answer.supported) == (NOTHING_SAID, (), False)

    def test_says_so_without_passages(self) -> None:
        assert extract_answer("Anything?", [], model=encoder()).text == NOTHING_SAID

    def test_gives_the_same_answer_again(self) -> None:
        hits = hits_of(MANUAL)
        assert extract_answer("Who repairs the pump?", hits) == extract_answer("Who repairs the pump?", hits)


class TestCheckSupport:
    def test_accepts_what_the_passages_contain(self) -> None:
        text = (
            "The HX-200 hangs on the north wall; call Maria Lopez on 555-0199. It cost 1,200 in March 2021."
        )
        assert check_support(text, [MANUAL, "It cost 1200."]) == []

    @pytest.mark.parametrize(
        ("text", "unsupported"),
        [
            ("The sensor is a HX-300.", ["HX-300"]),
            ("Call Peter Lopez.", ["Peter"]),
            ("It is watered at 7.", ["7"]),
            ("Use `pump_reset` for that.", ["pump_reset"]),
        ],
    )
    def test_names_what_is_made_up(self, text: str, unsupported: list[str]) -> None:
        assert check_support(text, [MANUAL]) == unsupported
