"""What is written for spreadsheets."""


def harmless_cell(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula (OWASP, CSV injection).

    >>> harmless_cell("=1+1.jpg"), harmless_cell("cat.jpg")
    ("'=1+1.jpg", 'cat.jpg')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
