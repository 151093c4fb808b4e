"""Languages by their ISO 639 code."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

# The codes of two letters.
_ISO_639_1 = """
aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki
kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no
nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta
te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""


def check_language(code: str) -> str:
    """Return an ISO 639 code as it is; of three letters, any. Raises ValueError: no language has this code."""
    if code not in _ISO_639_1.split() and not re.fullmatch("[a-z]{3}", code):
        raise ValueError(f"{code!r} is not an ISO 639 code; write en, de, zh or the like")
    return code


Language = Annotated[str, AfterValidator(check_language)]
"""ISO 639 code."""
