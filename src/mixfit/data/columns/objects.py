"""Columns that name the object that a row is about (a patient, a customer, a sample), although nothing says "id".

In: codes of columns, and names. Out: which columns are the same in all rows of one value, and whether a name is that of
an object. Decides no role itself."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

_PEOPLE = (
    "patient paciente paziente pacjent pasient potilas proband probandin participant teilnehmer subject sujet sujeto "
    "versuchsperson person persona personne household haushalt hogar menage foyer huishouden family familie user "
    "nutzer benutzer usuario utilisateur utente customer kunde kundin client cliente klant klient kunda buyer seller "
    "member mitglied employee mitarbeiter student schueler schüler pupil respondent resident donor volunteer driver"
)
_THINGS = (
    "serial sn sku asin barcode animal tier animale mouse maus rat ratte cow kuh pig horse dog specimen sample probe "
    "echantillon échantillon muestra campione monster prov batch charge lot plot parcel parzelle parcelle tree baum "
    "plant pflanze machine maschine device gerät geraet appareil unit engine motor sensor vehicle fahrzeug vin imei "
    "item article artikel product produkt produit producto prodotto account konto compte cuenta case fall record key "
    "schlüssel schluessel order bestellung contract vertrag policy invoice rechnung loan session accession "
    "isolate property objekt object listing matrikel ticket"
)
OBJECT_WORDS = frozenset((_PEOPLE + " " + _THINGS).split())
"""What a table may have several rows of; a column of this name usually says which."""
_NUMBER_WORDS_TEXT = (
    "no nr num number nummer numero número numéro nro nbr numer nº n° № # key code kennung label tag ref"
)
_NUMBER_WORDS = frozenset(_NUMBER_WORDS_TEXT.split())
_JOINED = ("nummer", "nr", "kennung", "nummern", "编号", "番号", "號碼", "号码")
_NO_OBJECTS_TEXT = (
    "of house haus phone telefon telephone mobile fax room zimmer floor page line row week month year day "
    "hour minute date time datum visit version chapter zip postal postleit step cycle count total door "
    "seat grade class level age quarter season zodiac rank woche monat jahr tag stunde besuch "
    "seite zeile"
)
_NO_OBJECTS = frozenset(_NO_OBJECTS_TEXT.split())
_TIME_WORDS_TEXT = (
    "date time year month week weekday day hour minute second quarter season doy datum jahr monat woche "
    "tag stunde fecha año mes annee année mois jour heure timestamp"
)
TIME_WORDS = frozenset(_TIME_WORDS_TEXT.split())

_MOST_PAIRS = 20_000  # are enough
_LEAST_PAIRS = 10
_SAME = 0.9  # of the pairs of rows with one value, that must be equal in a column
_WITHIN = 0.05  # of the variance of a number, that may lie within the values
_NEAR_SPREADS = 5.0  # standard errors
_MOST_CHANCE = 0.5  # with which two rows are equal in a column, so that it says something


@dataclass(frozen=True, slots=True)
class Named:
    """What a name says of a column."""

    reason: str
    """Short: "name is that of an object's number"."""
    certain: bool
    """A noun and a word for number, so that the name alone is as good as "patient_id"."""


def words_of(name: str) -> list[str]:
    """Lower-case words of a name, of any alphabet.

    >>> words_of("Probe Nr."), words_of("mouse_nr"), words_of("PatientNo"), words_of("Kundennummer")
    (['probe', 'nr'], ['mouse', 'nr'], ['patient', 'no'], ['kundennummer'])
    """
    spaced = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W_]+[°º]?|[#№]", spaced)]


def object_name(name: str) -> Named | None:
    """What a name says, if it may be that of an object or of its number.

    >>> object_name("patient no").certain, object_name("subject").certain, object_name("house number")
    (True, False, None)
    """
    words = words_of(name)
    if not words or _NO_OBJECTS & set(words) or len(words) > 4:
        return None
    joined = next((end for end in _JOINED if words[-1].endswith(end) and len(words[-1]) > len(end) + 1), "")
    stem = words[-1].removesuffix(joined) if joined else ""
    if joined and any(stem.startswith(word) for word in _NO_OBJECTS if len(word) > 3):
        return None
    nouns = {_singular(word) for word in (*words, stem)} & OBJECT_WORDS
    if joined or (len(words) > 1 and words[-1] in _NUMBER_WORDS):
        return Named(f"name {name!r} is that of a number or code", certain=bool(nouns) and words[-1] not in _VAGUE)
    if words[0] in _NUMBER_FIRST and len(words) == 2 and words[1] in OBJECT_WORDS:
        return Named(f"name {name!r} is that of a number or code", certain=True)
    if len(words) == 1 and words[0] in OBJECT_WORDS:
        return Named(f"name {name!r} is that of an object", certain=False)
    return None


_NUMBER_FIRST_TEXT = "no nr numero número numéro nº n° № # code codice codigo"
_NUMBER_FIRST = frozenset(_NUMBER_FIRST_TEXT.split())
_VAGUE = frozenset({"code", "key", "label", "tag", "ref"})


def _singular(word: str) -> str:
    """Without the letters that join it in German: Kunden(nummer), Mitglieds(nummer)."""
    found = [word, word.removesuffix("n"), word.removesuffix("en"), word.removesuffix("s")]
    return next((one for one in found if one in OBJECT_WORDS), word)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows that share a value of a column."""

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    values: int
    """Different values that some rows share."""

    @classmethod
    def of(cls, codes: Int64[np.ndarray, " rows"]) -> "Pairs":
        """Neighbours in the order of the values; of many values some.

        Args:
            codes: of the values, -1 where there is none.
        """
        known = np.flatnonzero(codes >= 0)
        if len(known) > _MOST_PAIRS:
            known = known[codes[known] % (1 + len(known) // _MOST_PAIRS) == 0]
        order = known[np.argsort(codes[known], kind="stable")]
        same = codes[order[1:]] == codes[order[:-1]]
        return cls(order[:-1][same], order[1:][same], len(np.unique(codes[order[1:]][same])))

    def __len__(self) -> int:
        """How many."""
        return len(self.first)

    def only(self, chosen: Bool[np.ndarray, " pairs"]) -> "Pairs":
        """Some of them."""
        return Pairs(self.first[chosen], self.second[chosen], self.values)


def chance_of_equal(codes: Int64[np.ndarray, " rows"]) -> float:
    """With which two rows drawn at random are equal; empty cells are a value."""
    shares = np.bincount(codes + 1) / max(len(codes), 1)
    return float((shares**2).sum())


def same_within(
    pairs: Pairs,
    codes: Mapping[str, Int64[np.ndarray, " rows"]],
    numbers: Mapping[str, Float[np.ndarray, " rows"]] | None = None,
) -> list[str]:
    """Columns that are equal, or nearly, in rows that share a value, though they differ between rows.

    Args:
        codes: of the cells of each other column.
        numbers: values of those of numbers, which may also vary a little.
    """
    found = []
    if len(pairs) < _LEAST_PAIRS:
        return []
    for name, cells in codes.items():
        if chance_of_equal(cells) > _MOST_CHANCE:
            continue
        equal = (cells[pairs.first] == cells[pairs.second]).mean() >= _SAME
        if not equal and numbers is not None and name in numbers:
            equal = _nearly(numbers[name], pairs)
        if equal:
            found.append(name)
    return found


def _nearly(values: Float[np.ndarray, " rows"], pairs: Pairs) -> bool:
    """Whether hardly any of the variance of a number lies within the pairs."""
    with np.errstate(all="ignore"):
        within = values[pairs.first] - values[pairs.second]
        total = np.nanvar(values[np.concatenate([pairs.first, pairs.second])])
        return bool(total > 0 and np.nanmean(within**2) / 2 < _WITHIN * total)


def near_within(
    pairs: Pairs, codes: Int64[np.ndarray, " rows"], values: Float[np.ndarray, " rows"] | None = None
) -> bool:
    """Whether a target differs less within the pairs than by chance: a sign test of many pairs, at one in a million.

    Args:
        codes: of its cells.
        values: if they are numbers.
    """
    rng = np.random.default_rng(0)
    ends = np.concatenate([pairs.first, pairs.second])
    other = rng.permutation(ends)[: len(pairs)]
    if values is None:
        chance = chance_of_equal(codes[ends])
        equal = float((codes[pairs.first] == codes[pairs.second]).mean())
        spread = np.sqrt(max(chance * (1 - chance), 1e-9) / len(pairs))
        return bool(equal > chance + _NEAR_SPREADS * spread and equal - chance > 0.25 * (1 - chance))
    own, strange = np.abs(values[pairs.first] - values[pairs.second]), np.abs(values[pairs.first] - values[other])
    nearer = float((own < strange).mean() - (own > strange).mean())
    return bool(nearer > max(_NEAR_SPREADS / np.sqrt(len(pairs)), 0.25))


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, of many the first, with the verb."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(repr, names[:most]))}{more} {'is' if len(names) == 1 else 'are'}"


def set_role(name: str, role: str) -> str:
    """The option that sets a role, as it is typed in a shell."""
    return f"--set {shlex.quote(f'{name}={role}')}"


def differing(pairs: Pairs, columns: Sequence[Int64[np.ndarray, " rows"]]) -> Pairs:
    """Pairs that are no copies: their rows differ in some column."""
    differs = np.zeros(len(pairs), dtype=bool)
    for cells in columns:
        differs |= cells[pairs.first] != cells[pairs.second]
    return pairs.only(differs)
