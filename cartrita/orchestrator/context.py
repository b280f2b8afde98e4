"""How much of a long conversation a model is sent: all of it, or the task and what was said last. Pure.

What is left out is left out in large pieces and rarely: from one step to the next the prompt only grows, so
that decisions share what they store of it and providers what they have read of it.
"""

from collections.abc import Sequence

from cartrita.llm.providers import ChatMessage

# However much a model takes: models lose the thread of longer ones, and each step pays for all of it again.
CONVERSATION_TOKENS = 32_000
# The instructions and the task; they are always sent.
OPENING = 2
# Tokens that a chat's form may take beside its messages.
SPARE = 256
LEFT_OUT = "({} earlier messages of this work are left out here.)"


def first_kept(sizes: Sequence[int], room: int) -> int:
    """Return from which message on a conversation is sent after its opening, by the tokens of each message.

    Whenever the messages outgrow `room` tokens, the oldest go until half of it is free. That depends on
    nothing that comes later, so that a conversation that goes on keeps its beginning for a long time. The
    last message is always kept.
    """
    opening = sum(sizes[:OPENING])
    kept, first = opening, OPENING
    for last in range(OPENING, len(sizes)):
        kept += sizes[last]
        if kept <= room:
            continue
        while first < last and kept > max(room // 2, opening):
            kept -= sizes[first]
            first += 1
    return first


def shortened(messages: Sequence[ChatMessage], first: int) -> list[ChatMessage]:
    """Return the opening, which says how much is left out, and the messages from `first` on."""
    if first <= OPENING:
        return list(messages)
    # What a tool gave is not said without the call that asked for it.
    while messages[first].role != "assistant" and first < len(messages) - 1:
        first += 1
    *before, task = messages[:OPENING]
    said = f"{task.content}\n\n{LEFT_OUT.format(first - OPENING)}"
    return [*before, ChatMessage(task.role, said), *messages[first:]]
