"""The editor of a rule: field by field or as YAML, with the place of each problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args
from uuid import UUID

import yaml
from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.workspace import ROLES
from cartrita.eventstore.admin import as_uuid
from governance.admin.pages import CommandForm, in_utc
from governance.models import PolicyDecision, PolicyRule
from governance.policy import (
    Outcome,
    PolicyNotValid,
    Problem,
    Rule,
    SubjectKind,
    compile_rule,
    load_policy,
    policy_text,
)
from governance.policy_text import read_yaml
from governance.rule import definition_of

NEWEST_DECISIONS = 20
_LISTS = ("tools", "agents", "models", "roles", "workspaces")


@dataclass(frozen=True, slots=True)
class Shown:
    """A problem for a page: its place and words, and the line that it is about with a caret below."""

    place: str
    message: str
    line: str = ""
    caret: str = ""


class Editor(CommandForm):
    """A rule as somebody writes it; `former` is the rule as it stands in the draft."""

    def __init__(self, data: Any = None, *, former: PolicyRule | None = None, initial: Any = None) -> None:
        super().__init__(data, prefix="rule", initial=initial)
        self.former = former
        self.problems: list[Shown] = []

    def written(self) -> Rule | None:
        """Return the rule where it is one; else None, and `problems` say what must change."""
        if not self.is_valid():
            return None
        try:
            rule = self.read()
        except PolicyNotValid as error:
            self.problems = [self.shown(problem) for problem in error.problems]
            return None
        if self.former is not None and rule.name != self.former.name:
            said = _("The name is what a rule is known by. Keep %(name)s, or write a new rule.")
            self.problems = [Shown("name", said % {"name": self.former.name})]
            return None
        return rule

    def read(self) -> Rule:
        """Return the rule. Raises PolicyNotValid."""
        raise NotImplementedError

    def shown(self, problem: Problem) -> Shown:
        """Return a problem with the line that it is about."""
        raise NotImplementedError


class TextEditor(Editor):
    """A rule as YAML."""

    text = forms.CharField(
        label=gettext_lazy("The rule as YAML"),
        strip=False,
        widget=forms.Textarea(attrs={"rows": 24, "spellcheck": "false", "class": "code"}),
    )

    @staticmethod
    def holding(rule: Rule) -> dict[str, str]:
        """Return what the editor holds of a rule."""
        return {"text": rule_text(rule)}

    def read(self) -> Rule:
        """Return the rule. Raises PolicyNotValid, with places in the whole text."""
        # The rule becomes the one entry of a policy: one line and two columns away from where people see it.
        lines = self._text().split("\n")
        entry = "\n".join(f"{'  ' if number else '- '}{line}" for number, line in enumerate(lines))
        rules = load_policy(f"rules:\n{entry}\n", "rule").rules
        if len(rules) != 1:
            raise PolicyNotValid(
                "rule", [Problem(line=2, column=3, rule="", field="", message=_("Write one rule."))]
            )
        return rules[0]

    def shown(self, problem: Problem) -> Shown:
        """Return a problem with its line and column in the text."""
        line, column = max(problem.line - 1, 1), max(problem.column - 2, 1)
        return with_caret(self._text(), line, column, f"{line}:{column} {problem.field}", problem.message)

    def _text(self) -> str:
        return str(self.cleaned_data["text"]).replace("\r\n", "\n").rstrip("\n")


class FieldEditor(Editor):
    """A rule field by field."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=60,
        help_text=gettext_lazy("Lower-case words joined by hyphens, such as mail-needs-a-human."),
    )
    sentence = forms.CharField(
        label=gettext_lazy("Sentence"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=gettext_lazy("What the rule does, for people."),
    )
    outcome = forms.ChoiceField(
        label=gettext_lazy("Outcome"), choices=[(outcome, outcome) for outcome in get_args(Outcome)]
    )
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        min_value=0,
        max_value=9999,
        initial=500,
        help_text=gettext_lazy("Among rules of the same severity the lowest number decides."),
    )
    kinds = forms.MultipleChoiceField(
        label=gettext_lazy("Kinds"),
        choices=[(kind, kind) for kind in get_args(SubjectKind)],
        widget=forms.CheckboxSelectMultiple,
    )
    tools = forms.CharField(
        label=gettext_lazy("Tools"),
        required=False,
        help_text=gettext_lazy("Names with commas between them; * stands for any text; empty: all."),
    )
    agents = forms.CharField(label=gettext_lazy("Agents"), required=False)
    models = forms.CharField(label=gettext_lazy("Models"), required=False)
    roles = forms.CharField(label=gettext_lazy("Roles"), required=False, help_text=", ".join(sorted(ROLES)))
    workspaces = forms.CharField(label=gettext_lazy("Workspaces"), required=False)
    condition = forms.CharField(
        label=gettext_lazy("Condition"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy("CEL; empty: always."),
    )
    unless = forms.CharField(
        label=gettext_lazy("Unless"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy("CEL; where this holds the rule does not."),
    )
    parameters = forms.CharField(
        label=gettext_lazy("Parameters"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy(
            "YAML. Throttle: rate, burst, per. Escalate: approvers, quorum, expires_in, scopes. "
            "Allow, audit: redact, and of searches leave_out."
        ),
    )
    message_for_agent = forms.CharField(
        label=gettext_lazy("Message for the agent"),
        required=False,
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    message_for_people = forms.CharField(
        label=gettext_lazy("Message for people"),
        required=False,
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    breakable = forms.BooleanField(
        label=gettext_lazy("Breakable"),
        required=False,
        help_text=gettext_lazy(
            "While break-glass is open, what it would hold up goes ahead, marked for review."
        ),
    )
    examples = forms.CharField(
        label=gettext_lazy("Examples"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy(
            "YAML: a list with given (names and values), then (the outcome) and by (a rule)."
        ),
    )

    def __init__(self, data: Any = None, *, former: PolicyRule | None = None, initial: Any = None) -> None:
        super().__init__(data, former=former, initial=initial)
        if former is not None:
            self.fields["name"].widget.attrs["readonly"] = True

    @staticmethod
    def holding(rule: Rule) -> dict[str, Any]:
        """Return what the editor holds of a rule."""
        match = rule.match
        held = definition_of(rule)
        return {
            "name": rule.name,
            "sentence": rule.sentence,
            "outcome": rule.outcome,
            "priority": rule.priority,
            "kinds": list(match.kinds),
            **{name: ", ".join(getattr(match, name) or ()) for name in _LISTS},
            "condition": rule.condition or "",
            "unless": rule.unless or "",
            "parameters": _yaml(held["parameters"]) if held.get("parameters") else "",
            "message_for_agent": rule.message_for_agent,
            "message_for_people": rule.message_for_people,
            "breakable": rule.breakable,
            "examples": _yaml(held["examples"]) if held.get("examples") else "",
        }

    def read(self) -> Rule:
        """Return the rule. Raises PolicyNotValid, with places in the fields."""
        given = self.cleaned_data
        match: dict[str, Any] = {"kinds": given["kinds"]}
        for name in _LISTS:
            named = [part.strip() for part in given[name].split(",") if part.strip()]
            if named:
                match[name] = named
        definition: dict[str, Any] = {
            "name": given["name"],
            "sentence": self._kept("sentence"),
            "priority": given["priority"],
            "match": match,
            "outcome": given["outcome"],
        }
        for name in ("condition", "unless"):
            if given[name].strip():
                definition[name] = self._kept(name)
        for name in ("message_for_agent", "message_for_people"):
            if given[name]:
                definition[name] = self._kept(name)
        if given["breakable"]:
            definition["breakable"] = True
        for name in ("parameters", "examples"):
            if given[name].strip():
                definition[name] = self._value(name)
        return compile_rule(definition)

    def shown(self, problem: Problem) -> Shown:
        """Return a problem with its line and column in the field that it is about."""
        parts = problem.field.split(".")
        name = parts[1] if parts[0] == "match" and len(parts) > 1 else parts[0]
        label = str(self.fields[name].label) if name in self.fields else problem.field
        if name not in {"condition", "unless"} and not (
            name in {"parameters", "examples"} and len(parts) == 1
        ):
            return Shown(f"{label} ({problem.field})", problem.message)
        text = unix_lines(self.cleaned_data[name])
        place = f"{label}, {problem.line}:{problem.column}"
        return with_caret(text, problem.line, problem.column, place, problem.message)

    def _kept(self, name: str) -> str:
        """Return a text as it was where all that differs is the white space around it, which fields lose."""
        written = unix_lines(self.cleaned_data[name])
        former = self.former.definition.get(name) if self.former else None
        return former if isinstance(former, str) and former.strip() == written.strip() else written

    def _value(self, name: str) -> Any:
        try:
            value, _places = read_yaml(unix_lines(self.cleaned_data[name]), name)
        except PolicyNotValid as error:
            problems = [
                Problem(line=each.line, column=each.column, rule="", field=name, message=each.message)
                for each in error.problems
            ]
            raise PolicyNotValid(name, problems) from None
        return value


EDITORS: Mapping[str, type[TextEditor] | type[FieldEditor]] = {"form": FieldEditor, "yaml": TextEditor}


class Try(forms.Form):
    """Which past decision to decide under the rule as it is written."""

    decision = forms.ChoiceField(label=gettext_lazy("One of the newest decisions"), required=False)
    decision_id = forms.CharField(
        label=gettext_lazy("Or the id of a decision"), required=False, max_length=60
    )

    def __init__(self, data: Any = None, *, workspace_id: UUID) -> None:
        super().__init__(data, prefix="try")
        decision = self.fields["decision"]
        assert isinstance(decision, forms.ChoiceField)  # noqa: S101 # it is declared so above
        rows = PolicyDecision.objects.filter(workspace_id=workspace_id)[:NEWEST_DECISIONS]
        decision.choices = [
            ("", "—"),
            *((str(row.pk), _in_a_line(row)) for row in rows),
        ]

    def clean(self) -> dict[str, Any]:
        """Return the one decision that is meant."""
        given = self.cleaned_data
        given["chosen"] = as_uuid(given.get("decision_id") or given.get("decision") or "")
        if given["chosen"] is None:
            raise forms.ValidationError(_("Choose one of the decisions, or write the id of one."))
        return given


def rule_text(rule: Rule) -> str:
    """Return a rule as YAML, as the editor shows it."""
    lines = policy_text([rule], "draft").split("rules:\n", 1)[1].rstrip("\n").split("\n")
    # An entry of a list: each line is four columns in, the first one after its dash.
    return "\n".join(line[4:] for line in lines) + "\n"


def with_caret(text: str, line: int, column: int, place: str, message: str) -> Shown:
    """Return a problem with the line of a text that it is about and a caret below it."""
    lines = text.split("\n")
    if not 0 < line <= len(lines):
        return Shown(place, message)
    # A tab would move the caret away from what it points at.
    shown = lines[line - 1].replace("\t", " ")
    return Shown(place, message, shown, " " * (min(column, len(shown) + 1) - 1) + "^")


def _in_a_line(row: PolicyDecision) -> str:
    about = row.tool_name or row.model_name or "—"
    parts = (
        in_utc(row.created_at),
        row.subject_kind,
        about,
        row.decision,
        row.policy_rule,
    )
    return " · ".join(parts)


def unix_lines(text: str) -> str:
    """Return what a browser sent as text with the common ends of lines."""
    return text.replace("\r\n", "\n").rstrip("\n")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text
