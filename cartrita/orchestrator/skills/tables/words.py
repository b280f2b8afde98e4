"""Words of questions about tables: how a text is cut into them, which are alike, and what some of them say."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["quoted", "date", "number", "word", "symbol"]

_TOKEN = re.compile(
    r"(?P<quoted>\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|„[^“”\n]{1,200}[“”]|`[^`\n]{1,200}`|"
    r"(?<!\w)'[^'\n]{1,200}'(?!\w))"
    r"|(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?!\w)|[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}(?!\w))"
    r"|(?P<number>(?:(?<![\w)])-)?[0-9]+(?:[.,][0-9]+)*(?!\w))"
    r"|(?P<word>[^\W_]+)"
    r"|(?P<symbol>>=|<=|<>|!=|\S)"
)
_CAMEL = re.compile(r"(?<=[a-zß-ÿ])(?=[A-Z][a-z])")
_EMAIL = re.compile(r"\be-?mails?\b", re.IGNORECASE)
_SHORT = re.compile(r"['’](?:s|re|d|ll)\b")
_ENDING = re.compile(r"\.(?:csv|tsv|tab|txt|parquet|pq)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, date, sign or quotation (then `text` is what is quoted); `plain` is the folded text."""

    kind: Kind
    text: str
    plain: str


def tokens(text: str) -> tuple[Token, ...]:
    """Return the words and signs of a text in order; underscores and capitals within words divide."""
    text = _CAMEL.sub(" ", _SHORT.sub("", _EMAIL.sub("email", _ENDING.sub(" csv ", text))))
    found = []
    for match in _TOKEN.finditer(text):
        kind: Kind = match.lastgroup  # type: ignore[assignment] # the pattern's groups are the kinds
        said = match[0][1:-1] if kind == "quoted" else match[0]
        if said != "_":
            found.append(Token(kind, said, folded(said)))
    return tuple(found)


def words(text: str) -> tuple[str, ...]:
    """Return the folded words and numbers of a name or a value."""
    return tuple(
        part for one in tokens(text) if one.kind != "symbol" for part in re.findall(r"\w+", one.plain)
    )


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Return the text without capitals and accents."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold()


@lru_cache(maxsize=4096)
def forms(word: str) -> frozenset[str]:
    """Return the word and what it may be the plural of, in English and German."""
    found = {word}
    if len(word) > 3 and word.endswith("ies"):
        found.add(word[:-3] + "y")
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes")):
        found.add(word[:-2])
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.add(word[:-1])
    for ending in ("en", "er", "n", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            found.add(word[: -len(ending)])
    return frozenset(found)


def alike(one: str, other: str) -> bool:
    """Tell whether two words are the same, be it in singular and plural."""
    return one == other or (len(one) > 2 and len(other) > 2 and not forms(one).isdisjoint(forms(other)))


def number(text: str) -> str | None:
    """Return a number as SQL has it, or nothing where it can be read in two ways."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    for grouping, point in ((",", "."), (".", ",")):
        if re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{grouping}[0-9]{{3}})+\{point}[0-9]+", digits):
            return sign + digits.replace(grouping, "").replace(point, ".")
        if re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{grouping}[0-9]{{3}}){{2,}}", digits):
            return sign + digits.replace(grouping, "")
    if re.fullmatch(r"[1-9][0-9]{0,2},[0-9]{3}", digits):
        return sign + digits.replace(",", "")
    if re.fullmatch(r"[1-9][0-9]{0,2}\.[0-9]{3}", digits):
        return None
    return (
        sign + digits.replace(",", ".") if re.fullmatch(r"[0-9]{1,30}(?:[.,][0-9]{1,20})?", digits) else None
    )


def _phrases(meanings: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    return {
        tuple(phrase.strip().split()): role for role, said in meanings.items() for phrase in said.split(",")
    }


# What phrases do in a question. `agg:` aggregates; `sup:` names an extreme; `cmp:` compares.
PHRASES: Mapping[tuple[str, ...], str] = _phrases(
    {
        "agg:sum": "sum,sums,sum up,summed,total,totals,add up,summe,gesamtsumme,gesamt,gesamte,gesamter,gesamten,"
        "total sum,somme,suma",
        "agg:avg": "average,averages,mean,avg,on average,durchschnitt,durchschnittlich,durchschnittliche,"
        "durchschnittlicher,durchschnittlichen,durchschnittliches,mittelwert,im schnitt,im durchschnitt,moyenne,"
        "promedio",
        "agg:median": "median,medians,mediane",
        "agg:min": "minimum,min,minimal",
        "agg:max": "maximum,max,maximal",
        "agg:std": "standard deviation,stddev,std,standardabweichung",
        "agg:var": "variance,varianz",
        "sup:max": "highest,largest,biggest,greatest,hochste,hochsten,hochster,hochstes,grosste,grossten,grosster,"
        "grosstes,maximale",
        "sup:min": "lowest,smallest,niedrigste,niedrigsten,niedrigster,kleinste,kleinsten,kleinster,geringste,"
        "geringsten,minimale",
        "most:max": "most,the most,meisten,am meisten,die meisten",
        "most:min": "fewest,least,the least,the fewest,wenigsten,am wenigsten,die wenigsten",
        "adj:price:max": "most expensive,dearest,priciest,teuerste,teuersten,teuerstes",
        "adj:price:min": "cheapest,least expensive,billigste,billigsten,gunstigste,gunstigsten",
        "adj:age:max": "oldest,alteste,altesten",
        "adj:age:min": "youngest,jungste,jungsten",
        "adj:weight:max": "heaviest,schwerste,schwersten",
        "adj:weight:min": "lightest,leichteste,leichtesten",
        "adj:height:max": "tallest",
        "adj:duration:max": "slowest,longest",
        "adj:duration:min": "fastest,quickest,shortest",
        "adj:salary:max": "highest paid,best paid,earns the most,earn the most,earns most,verdient am meisten",
        "adj:salary:min": "lowest paid,worst paid,earns the least,earn the least,earns least",
        "adj:date:max": "newest,latest,most recent,neueste,neuesten,letzte",
        "adj:date:min": "earliest,fruheste,fruhesten",
        "verb:quantity": "sold,sold the most units",
        "mode": "most common,most frequent,most often,haufigste,haufigsten,haufigster",
        "count": "how many,number of,count of,count the,count,total number of,number,wie viele,wieviele,anzahl,"
        "anzahl der,die anzahl der,how many rows are there for,combien de,cuantos,cuantas",
        "distinct": "distinct,unique,different,verschiedene,verschiedenen,unterschiedliche,unterschiedlichen",
        "list": "list,show,display,print,zeige,zeig,liste,nenne,show me,list all,show all,find all,find the,find",
        "which": "which,what,welche,welcher,welches,welchen",
        "who": "who,wer",
        "when": "when,wann",
        "by": "per,by,each,for each,for every,in each,of each,every,group by,grouped by,broken down by,"
        "break down by,split by,by each,per each,pro,je,gruppiert nach,aufgeteilt nach,in every",
        "sort": "sort by,sorted by,order by,ordered by,rank by,ranked by,sortiert nach,sort",
        "asc": "ascending,lowest first,smallest first,oldest first,cheapest first,aufsteigend,earliest first",
        "desc": "descending,highest first,largest first,newest first,biggest first,absteigend,latest first,"
        "most expensive first",
        "share": "percentage,percent,share,proportion,fraction,anteil,prozentsatz,what percentage,percentage of,"
        "prozent",
        "missing": "missing,empty,null,blank,no value,fehlende,fehlenden,fehlt,fehlen,leer,leere,missing values,"
        "missing value,not filled,is missing,are missing",
        "lacking": "without,with no,have no,has no,without any,ohne,without an,without a,lacks,lack",
        "duplicate": "duplicates,duplicate,duplicated,twice,doppelte,duplikate,more than once",
        "corr": "correlation,correlation between,correlated,korrelation,korrelation zwischen",
        "range": "difference between,spread,differenz zwischen,unterschied zwischen,range",
        "columns": "columns,fields,column names,data types,types,spalten,spaltennamen,felder",
        "cmp:>": ">,more than,greater than,larger than,higher than,bigger than,above,over,exceeding,mehr als,uber,"
        "grosser als,hoher als,exceeds,longer than,is over,is above",
        "cmp:>=": ">=,≥,at least,mindestens,no less than",
        "cmp:<": "<,less than,lower than,smaller than,below,under,fewer than,weniger als,unter,kleiner als,"
        "shorter than,is under,is below",
        "cmp:<=": "<=,≤,at most,hochstens,no more than,maximum of",
        "cmp:=": "=,equal to,equals,exactly,genau,gleich,called,named",
        "cmp:!=": "!=,<>,not equal to",
        "than:age:>": "older than,alter als",
        "than:age:<": "younger than,junger als",
        "than:price:>": "more expensive than,dearer than,teurer als",
        "than:price:<": "cheaper than,billiger als,gunstiger als",
        "than:weight:>": "heavier than,schwerer als",
        "than:weight:<": "lighter than,leichter als",
        "between": "between,zwischen",
        "before": "before,vor,prior to,earlier than",
        "after": "after,later than",
        "since": "since,seit,from,ab,as of",
        "until": "until,bis,through,to",
        "not": "not,n,except,excluding,other than,nicht,ausser,aren,isn,weren,wasn,apart from,no longer,never,no,"
        "kein,keine",
        "and": "and,und,as well as,&,y,et",
        "or": "or,oder",
        "top": "top,first,erste,ersten",
        "bottom": "bottom",
        "that": "that,this,those,these,same,dieser,diese,diesem,dieses",
        "compare": "compare,vergleiche",
        "unit:year": "year,years,yearly,annual,annually,jahr,jahre,jahren,by year",
        "unit:quarter": "quarter,quarters,quarterly,quartal,quartale",
        "unit:month": "month,months,monthly,monat,monate,monaten",
        "unit:week": "week,weeks,weekly,woche,wochen",
        "unit:day": "day,days,daily,tag,tage",
        "rows": "rows,row,records,record,entries,entry,lines,line,zeilen,zeile,eintrage,eintrag,datensatze,"
        "datensatz,filas,lignes",
        "howmuch": "how much,wie viel,wieviel",
        "spend": "spend,spent,ausgegeben,pay,paid",
        "earn": "earned,verdient",
    }
)
LONGEST_PHRASE = max(map(len, PHRASES))

# They change nothing that is asked. What is not among these, nor recognised, is not understood.
NEUTRAL = frozenset(
    "what's is are was were be been being the a an of in for me please can could would will you i want wants like "
    "to know tell give find calculate compute get determine work out from on with at our my we us there have has "
    "had do does did all any data table tables file csv parquet column columns field value values dataset set "
    "spreadsheet sheet it its their your them they as about overall altogether together so far where whose if into "
    "when that's let see need hello hi thanks thank und then now also only_ made placed make come comes came took "
    "take taken happen happened who's belonging living live lives work works working based registered recorded "
    "listed stored contain contains containing include includes including within among der die das des dem den "
    "ein eine einer eines einem einen ist sind war waren wird werden hat haben hatte gibt es in im am an von vom zu "
    "zum zur aus bei mit fur auf wie hoch lautet mir bitte spalte tabelle datei wert werte kommt kommen kommt sich "
    "brachte bringt hoch gross est sont la le les un une quel quelle el los las cual es de del du total_ uploaded "
    "attached given corresponding respective sum_ equal together up during wahrend entire whole per_ ? . ! , ; :"
    " ( ) / - \" ' – … * # question answer report show_ figure figures highest_".split()
)

# Words for the same thing, beside being alike; used only where no column has the word itself.
CONCEPTS: Mapping[str, frozenset[str]] = {
    name: frozenset(said.split())
    for name, said in {
        "revenue": "revenue sale turnover umsatz umsatze erlos income proceed amount betrag",
        "price": "price preis cost kosten",
        "amount": "amount betrag sum summe",
        "spending": "amount betrag cost kosten expense ausgabe spending spend paid price_paid",
        "quantity": "quantity menge qty unit stuck piece anzahl sold",
        "customer": "customer kunde client buyer kaufer",
        "country": "country land nation",
        "city": "city town stadt ort",
        "product": "product item article artikel produkt",
        "date": "date datum",
        "employee": "employee mitarbeiter staff worker angestellte",
        "department": "department abteilung dept",
        "salary": "salary gehalt wage lohn pay",
        "category": "category kategorie type typ kind art",
        "region": "region gebiet area",
        "age": "age alter",
        "store": "store shop branch filiale laden",
        "supplier": "supplier vendor lieferant",
        "rating": "rating score bewertung",
        "weight": "weight gewicht",
        "height": "height grosse hohe",
        "duration": "duration dauer runtime laufzeit",
        "temperature": "temperature temp temperatur",
        "profit": "profit gewinn",
        "discount": "discount rabatt",
        "order": "order bestellung",
        "invoice": "invoice rechnung",
        "gender": "gender sex geschlecht",
        "year": "year jahr",
        "month": "month monat",
        "title": "title titel",
        "person": "name employee customer person member student patient kunde mitarbeiter",
    }.items()
}

MONTHS: Mapping[str, int] = {
    name: number
    for number, said in enumerate(
        (
            "january jan januar", "february feb februar", "march mar marz maerz", "april apr", "may mai",
            "june jun juni", "july jul juli", "august aug", "september sep sept", "october oct oktober okt",
            "november nov", "december dec dezember dez",
        ),
        1,
    )
    for name in said.split()
}  # fmt: skip

NUMBERS: Mapping[str, int] = {
    name: number
    for number, said in enumerate(
        (
            "one", "two zwei", "three drei", "four vier", "five funf", "six sechs", "seven sieben", "eight acht",
            "nine neun", "ten zehn", "eleven elf", "twelve zwolf",
        ),
        1,
    )
    for name in said.split()
}  # fmt: skip

# Names of columns carry units and little words that nobody says.
UNSAID = frozenset(
    "eur euro euros usd dollar dollars gbp chf € $ £ kg g cm mm km m2 kwh kw c celsius pct percent h hrs hours min "
    "minutes s sec seconds ms of in the is has was no_ per de l in".split()
)
# Totals of these make sense: a group's total is what people mean by its revenue.
ADDITIVE = frozenset(
    "revenue sale turnover umsatz erlos income amount betrag quantity menge qty unit cost kosten expense ausgabe "
    "profit gewinn vote point hour order sold total spending".split()
)


def is_additive(column_words: Sequence[str]) -> bool:
    """Tell whether sums of a column with these words are figures that people speak of."""
    return any(not forms(word).isdisjoint(ADDITIVE) for word in column_words) and not set(column_words) & {
        "average", "avg", "mean", "unit", "each", "rate", "per", "price", "preis",
    }  # fmt: skip
