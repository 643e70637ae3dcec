"""Numbers and names as people read them; names that are odd or hostile become harmless text."""

import unicodedata
from typing import Final

REASONS: Final = {
    "not_found": "The object was listed but gone when it was read.",
    "changed": "The object changed between listing and reading.",
    "forbidden": "Storage refused to give this object.",
    "read_error": "Storage failed while the object was read.",
    "empty": "The file has no bytes.",
    "too_large": "The file is larger than the limit.",
    "too_many_pixels": "The picture has more pixels than the limit.",
    "unsupported_format": "The content is not an image format tagger reads, whatever the name says.",
    "corrupt": "The file is damaged or cut short.",
    "timeout": "Reading or decoding took too long.",
    "crash": "The file crashed the decoder; only this image was lost.",
}
"""What each code of the `error` column means."""

_JOINER: Final = "\u200d"


def shown(text: object) -> str:
    r"""Return a name as text that shows every character it has.

    Control characters, bidirectional overrides, invisible and unassigned characters become `\x1b` or
    `\u202e`, so that no name can reorder, hide or imitate the text around it. Escaping for HTML is the
    template's work.

    >>> print(shown("a\x00b\u202egpj.exe"))
    a\x00b\u202egpj.exe
    >>> print(shown("caf\u00e9 \U0001f469\u200d\U0001f680"))
    café 👩‍🚀
    """
    text = str(text)
    if text.isprintable():
        return text
    parts = []
    for i, char in enumerate(text):
        emoji = char == _JOINER and _is_symbol(text[i - 1 : i]) and _is_symbol(text[i + 1 : i + 2])
        parts.append(char if char.isprintable() or emoji else _escape(char))
    return "".join(parts)


def file_name(uri: str) -> str:
    """Return the last part of an address; the whole of it where that would be empty.

    >>> file_name("s3://shop/2024/cat.jpg"), file_name("s3://shop/odd/")
    ('cat.jpg', 's3://shop/odd/')
    """
    return uri.rpartition("/")[2] or uri


def count(number: float) -> str:
    """Write a whole number with separators.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{round(number):,}"


def share(part: float, whole: float) -> str:
    """Write a share in percent, never rounding a little to nothing or nearly all to all.

    >>> share(1, 3), share(1, 100_000), share(99_999, 100_000), share(0, 0)
    ('33.3 %', '<0.1 %', '>99.9 %', '0 %')
    """
    if whole <= 0 or part <= 0:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1 %"
    if 99.9 < percent < 100:
        return ">99.9 %"
    return "100 %" if percent >= 100 else f"{percent:.1f} %"


def percentile(below: float) -> str:
    """Write which share is below, closer to the top, where it matters, with two decimals.

    >>> percentile(0.97368), percentile(0.9998)
    ('97.4 %', '99.98 %')
    """
    return f"{100 * below:.2f} %" if below > 0.999 else f"{100 * below:.1f} %"


def size(n_bytes: float) -> str:
    """Write a number of bytes.

    >>> size(73_400), size(512), size(3.2e12)
    ('73.4 kB', '512 B', '3.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} PB"


def pixels(number: float) -> str:
    """Write a number of pixels.

    >>> pixels(480_000), pixels(24_200_000)
    ('0.48 MP', '24.2 MP')
    """
    mega = number / 1e6
    return f"{mega:.2f} MP" if mega < 1 else f"{mega:,.1f} MP"


def seconds(number: float) -> str:
    """Write a duration.

    >>> seconds(0.042), seconds(12.34), seconds(754), seconds(7_500)
    ('42 ms', '12.3 s', '12 min 34 s', '2 h 5 min')
    """
    if number < 1:
        return f"{number * 1000:.0f} ms"
    if number < 100:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def rate(number: float) -> str:
    """Write a rate, with a decimal where it matters.

    >>> rate(340.4), rate(2.25), rate(12_800)
    ('340', '2.2', '12,800')
    """
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _is_symbol(char: str) -> bool:
    """Tell whether a character may stand beside a joiner: an emoji, its skin tone, its presentation mark."""
    return char != "" and (unicodedata.category(char) in ("So", "Sk") or char == "\ufe0f")


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
