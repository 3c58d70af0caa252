"""Words that no language has, and that no two objects share."""

from __future__ import annotations

from functools import lru_cache

from engine.made.chance import Chance

_ONSETS = (
    *"b c d f g h j k l m n p r s t v w z".split(),
    *"br ch cl dr fl fr gl gr kr pl pr sh sk sl sp st th tr".split(),
)
_VOWELS = "aeiouy"
_CODAS = ("", "l", "m", "n", "r", "s", "t", "x", "rk", "nd", "sh")

SHORT, LONG = 4, 28
"""How many words of two and of three syllables each object has."""

_SYLLABLES = len(_ONSETS) * len(_VOWELS)

OBJECTS = _SYLLABLES**2 * len(_CODAS) // SHORT
"""So many objects of a seed have words of their own."""


def words(seed: int, number: int) -> tuple[str, ...]:
    """`SHORT` words of two syllables, then `LONG` of three, of the object with that number.

    A syllable ends with its only vowel, so a word can be read in one way, and the n-th word is a
    one-to-one map of n: of one seed no two objects below `OBJECTS` have a word in common.
    """
    short = [_word(seed, number * SHORT + i, 2) for i in range(SHORT)]
    return (*short, *(_word(seed, number * LONG + i, 3) for i in range(LONG)))


@lru_cache(maxsize=64)
def _order(seed: int, syllables: int) -> tuple[int, int, int]:
    """Number of words, and step and start of a walk through all of them."""
    space = _SYLLABLES**syllables * len(_CODAS)
    chance = Chance("words", seed, syllables)
    # None of these primes divides the space (2, 3 and 11 do), so no word comes twice: and
    # neighbours in number become words without likeness.
    step = chance.pick((104_729, 1_299_709, 15_485_863, 32_452_843))
    return space, step, chance.whole(0, space - 1)


def _word(seed: int, index: int, syllables: int) -> str:
    space, step, start = _order(seed, syllables)
    value, coda = divmod((index * step + start) % space, len(_CODAS))
    text = ""
    for _ in range(syllables):
        value, syllable = divmod(value, _SYLLABLES)
        onset, vowel = divmod(syllable, len(_VOWELS))
        text += _ONSETS[onset] + _VOWELS[vowel]
    return text + _CODAS[coda]
