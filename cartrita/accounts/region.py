"""Where a workspace keeps its books: time zones and currencies. Pure."""

from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cartrita.errors import BadInput

# ISO 4217, as of 2025, without funds, metals and testing codes.
_ISO_4217 = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
    CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
    HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD
    LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK
    PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES: frozenset[str] = frozenset(_ISO_4217.split())


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """Return the time zone of that name. Raises BadInput for an unknown one."""
    if name not in zone_names():
        raise BadInput(
            f"{name[:60]!r} is no time zone; send a name such as Europe/Berlin or UTC.", field="time_zone"
        )
    return ZoneInfo(name)


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all time zones, without what this machine happens to be set to."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


def require_currency(code: str) -> None:
    """Raise BadInput for what is no currency."""
    if code not in CURRENCIES:
        raise BadInput(f"{code[:10]!r} is no currency; send an ISO 4217 code such as USD.", field="currency")
