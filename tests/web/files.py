"""Documents as people upload them, made here."""

from collections.abc import Sequence


def pdf(pages: Sequence[str]) -> bytes:
    """Return a PDF with one page a text; its lines are set in Helvetica."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for number, text in enumerate(pages):
        lines = [b"(" + line.encode("cp1252").translate(_ESCAPED) + b") Tj T*" for line in text.splitlines()]
        content = b"BT /F1 12 Tf 72 760 Td 16 TL\n" + b"\n".join(lines) + b"\nET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


# Parentheses would need a backslash in a PDF's strings; none of our texts needs them.
_ESCAPED = bytes.maketrans(b"()\\", b"[]/")

_PAGES = """The guide to the island ferry

This guide is for everybody who travels with us.
It was printed for the summer season.
Our crew is happy to help you on board.
---
Departures

The ferry to Norderney leaves at 7:45 every morning from pier 4.
Passengers board twenty minutes before the departure.
In winter the last ferry comes back at 18:30.
---
Tickets

A day ticket costs 19.50 EUR for adults.
Dogs travel free of charge when they are kept on a lead.
Bicycles need a ticket of their own, which costs 6 EUR.
"""

FERRY_GUIDE = pdf(_PAGES.split("---\n"))
