"""What words say in a question about a table, in English and German."""

from collections.abc import Mapping, Sequence

from cartrita.orchestrator.skills.tables.words import forms, listed


def _phrases(meanings: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    return {
        tuple(phrase.strip().split()): role for role, said in meanings.items() for phrase in said.split(",")
    }


# What phrases do in a question. `agg:` aggregates; `sup:` names an extreme; `cmp:` compares.
PHRASES: Mapping[tuple[str, ...], str] = _phrases(
    {
        "agg:sum": (
            "sum,sums,sum up,summed,total,totals,add up,summe,gesamtsumme,gesamt,gesamte,gesamter,"
            "gesamten,total sum,somme,suma"
        ),
        "agg:avg": (
            "average,averages,mean,avg,on average,durchschnitt,durchschnittlich,durchschnittliche,"
            "durchschnittlicher,durchschnittlichen,durchschnittliches,mittelwert,im schnitt,"
            "im durchschnitt,moyenne,promedio"
        ),
        "agg:median": "median,medians,mediane",
        "agg:min": "minimum,min,minimal",
        "agg:max": "maximum,max,maximal",
        "agg:std": "standard deviation,stddev,std,standardabweichung",
        "agg:var": "variance,varianz",
        "sup:max": (
            "highest,largest,biggest,greatest,hochste,hochsten,hochster,hochstes,grosste,grossten,"
            "grosster,grosstes,maximale"
        ),
        "sup:min": (
            "lowest,smallest,niedrigste,niedrigsten,niedrigster,kleinste,kleinsten,kleinster,geringste,"
            "geringsten,minimale"
        ),
        "most:max": "most,meisten,am meisten",
        "most:min": "fewest,least,wenigsten,am wenigsten",
        "adj:price:max": "most expensive,dearest,priciest,teuerste,teuersten,teuerstes",
        "adj:price:min": "cheapest,least expensive,billigste,billigsten,gunstigste,gunstigsten",
        "adj:age:max": "oldest,alteste,altesten",
        "adj:age:min": "youngest,jungste,jungsten",
        "adj:weight:max": "heaviest,schwerste,schwersten",
        "adj:weight:min": "lightest,leichteste,leichtesten",
        "adj:height:max": "tallest",
        "adj:duration:max": "slowest,longest",
        "adj:duration:min": "fastest,quickest,shortest",
        "adj:salary:max": (
            "highest paid,best paid,earns the most,earn the most,earns most,verdient am meisten"
        ),
        "adj:salary:min": "lowest paid,worst paid,earns the least,earn the least,earns least",
        "adj:date:max": "newest,latest,most recent,neueste,neuesten,letzte",
        "adj:date:min": "earliest,fruheste,fruhesten",
        "verb:quantity": "sold,sold the most units",
        "mode": "most common,most frequent,most often,haufigste,haufigsten,haufigster",
        "count": (
            "how many,number of,count of,count the,count,total number of,number,wie viele,wieviele,"
            "anzahl,anzahl der,die anzahl der,how many rows are there for,combien de,cuantos,cuantas"
        ),
        "distinct": (
            "distinct,unique,different,verschiedene,verschiedenen,unterschiedliche,unterschiedlichen"
        ),
        "list": (
            "list,show,display,print,zeige,zeig,liste,nenne,show me,list all,show all,find all,find the,find"
        ),
        "which": "which,what,welche,welcher,welches,welchen",
        "who": "who,wer",
        "when": "when,wann",
        "by": (
            "per,by,each,for each,for every,in each,of each,every,group by,grouped by,broken down by,"
            "break down by,split by,by each,per each,pro,je,gruppiert nach,aufgeteilt nach,in every"
        ),
        "sort": "sort by,sorted by,order by,ordered by,rank by,ranked by,sortiert nach,sort",
        "asc": (
            "ascending,lowest first,smallest first,oldest first,cheapest first,aufsteigend,earliest first"
        ),
        "desc": (
            "descending,highest first,largest first,newest first,biggest first,absteigend,latest first,"
            "most expensive first"
        ),
        "share": (
            "percentage,percent,share,proportion,fraction,anteil,prozentsatz,what percentage,"
            "percentage of,prozent"
        ),
        "missing": (
            "missing,empty,null,blank,no value,fehlende,fehlenden,fehlt,fehlen,leer,leere,missing values,"
            "missing value,not filled,is missing,are missing"
        ),
        "lacking": "without,with no,have no,has no,without any,ohne,without an,without a,lacks,lack",
        "duplicate": "duplicates,duplicate,duplicated,twice,doppelte,duplikate,more than once",
        "corr": "correlation,correlation between,correlated,korrelation,korrelation zwischen",
        "range": "difference between,spread,differenz zwischen,unterschied zwischen,range",
        "columns": "columns,fields,column names,data types,types,spalten,spaltennamen,felder",
        "cmp:>": (
            ">,more than,greater than,larger than,higher than,bigger than,above,over,exceeding,mehr als,"
            "uber,grosser als,hoher als,exceeds,longer than,is over,is above"
        ),
        "cmp:>=": ">=,≥,at least,mindestens,no less than",
        "cmp:<": (
            "<,less than,lower than,smaller than,below,under,fewer than,weniger als,unter,kleiner als,"
            "shorter than,is under,is below"
        ),
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
        "after": "after,later than,nach",
        "since": "since,seit,from,ab,as of",
        "until": "until,bis,through,to",
        "not": (
            "not,n,except,excluding,other than,nicht,ausser,aren,isn,weren,wasn,apart from,no longer,"
            "never,no,kein,keine"
        ),
        "and": "and,und,as well as,&,y,et",
        "or": "or,oder",
        "top": "top,first,erste,ersten",
        "bottom": "bottom",
        "that": "that,this,those,these,same,dieser,diese,diesem,dieses",
        "they": "it,its,they,their,them",
        "compare": "compare,vergleiche",
        "unit:year": "year,years,yearly,annual,annually,jahr,jahre,jahren,by year",
        "unit:quarter": "quarter,quarters,quarterly,quartal,quartale",
        "unit:month": "month,months,monthly,monat,monate,monaten",
        "unit:week": "week,weeks,weekly,woche,wochen",
        "unit:day": "day,days,daily,tag,tage",
        "rows": (
            "rows,row,records,record,entries,entry,lines,line,zeilen,zeile,eintrage,eintrag,datensatze,"
            "datensatz,filas,lignes"
        ),
        "howmuch": "how much,wie viel,wieviel",
        "spend": "spend,spent,ausgegeben,pay,paid",
        "earn": "earned,verdient",
    }
)
LONGEST_PHRASE = max(map(len, PHRASES))

# They change nothing that is asked. What is not among these, nor recognised, is not understood.
NEUTRAL = listed(
    "still what's is are was were be been being the a an of in for me please can could would will you i want "
    "wants like to know tell give find calculate compute get determine work out from on with at our my "
    "we us there have has had do does did all any data table tables file csv parquet column columns "
    "field value values dataset set spreadsheet sheet your as about overall "
    "altogether together so far where whose if into when that's let see need hello hi thanks thank und "
    "then now also only_ made placed make come comes came took take taken happen happened who's "
    "belonging living live lives works working based registered recorded listed stored contain contains "
    "containing include includes including within among der die das des dem den ein eine einer eines "
    "einem einen ist sind war waren wird werden hat haben hatte gibt es im am von vom zu zum zur aus bei "
    "mit fur auf wie hoch lautet mir bitte spalte tabelle datei wert werte kommt kommen sich brachte "
    "bringt gross est sont la le les un une quel quelle el los las cual de del du total_ uploaded "
    "attached given corresponding respective sum_ equal up during wahrend entire whole per_ ? . ! , ; : "
    "( ) / - \" ' – … * # question answer report show_ figure figures highest_"
)

# Words for the same thing, beside being alike; used only where no column has the word itself.
CONCEPTS: Mapping[str, frozenset[str]] = {
    name: listed(said)
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

# They are figures: a column of texts is none of them.
MEASURED = listed(
    "revenue price amount spending quantity salary age rating weight height duration temperature profit "
    "discount"
)
PARTICIPLES = listed(
    "sold paid ordered shipped spent earned bought received charged verkauft bezahlt bestellt"
)
# Words of columns that tell who somebody is.
PERSONAL = listed(
    "name full first last customer client employee person member student patient kunde mitarbeiter player "
    "worker"
)

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
            "one", "two zwei", "three drei", "four vier", "five funf", "six sechs", "seven sieben",
            "eight acht", "nine neun", "ten zehn", "eleven elf", "twelve zwolf",
        ),
        1,
    )
    for name in said.split()
}  # fmt: skip

# What names of columns carry and nobody says: little words, and units at their end or in brackets. Some units
# are only that in brackets: `Temp Min` is not measured in minutes.
LITTLE = listed("of in the is has was no_ per de")
UNITS = listed("eur euro euros usd dollar dollars gbp chf € $ £ kg cm mm km m2 kwh kw pct")
BRACKETED_UNITS = UNITS | listed("g m c l celsius percent h hrs hours min minutes s sec seconds ms")
# Totals of these make sense: a group's total is what people mean by its revenue.
ADDITIVE = listed(
    "revenue sale turnover umsatz erlos income amount betrag quantity menge qty unit cost kosten expense "
    "ausgabe profit gewinn vote point hour order sold total spending rain rainfall precipitation niederschlag"
)


def is_additive(column_words: Sequence[str]) -> bool:
    """Tell whether sums of a column with these words are figures that people speak of."""
    return any(not forms(word).isdisjoint(ADDITIVE) for word in column_words) and not set(column_words) & {
        "average", "avg", "mean", "unit", "each", "rate", "per", "price", "preis",
    }  # fmt: skip
