"""Languages by their ISO 639 code."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_CODES = """
aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara=arb as=asm av=ava ay=aym az=aze=azj ba=bak be=bel bg=bul bi=bis
bm=bam bn=ben bo=bod=tib br=bre bs=bos ca=cat ce=che ch=cha co=cos cr=cre cs=ces=cze cu=chu cv=chv cy=cym=wel da=dan
de=deu=ger dv=div dz=dzo ee=ewe el=ell=gre en=eng eo=epo es=spa et=est=ekk eu=eus=baq fa=fas=per=pes ff=ful fi=fin
fj=fij fo=fao fr=fra=fre fy=fry ga=gle gd=gla gl=glg gn=grn gu=guj gv=glv ha=hau he=heb hi=hin ho=hmo hr=hrv ht=hat
hu=hun hy=hye=arm hz=her ia=ina id=ind ie=ile ig=ibo ii=iii ik=ipk io=ido is=isl=ice it=ita iu=iku ja=jpn jv=jav
ka=kat=geo kg=kon ki=kik kj=kua kk=kaz kl=kal km=khm kn=kan ko=kor kr=kau ks=kas ku=kur kv=kom kw=cor ky=kir la=lat
lb=ltz lg=lug li=lim ln=lin lo=lao lt=lit lu=lub lv=lav=lvs mg=mlg mh=mah mi=mri=mao mk=mkd=mac ml=mal mn=mon mr=mar
ms=msa=may=zsm mt=mlt my=mya=bur na=nau nd=nde ne=nep=npi ng=ndo nl=nld=dut no=nor=nb=nob=nn=nno nr=nbl nv=nav ny=nya
oc=oci oj=oji om=orm or=ori os=oss pa=pan pi=pli pl=pol ps=pus pt=por qu=que rm=roh rn=run ro=ron=rum ru=rus rw=kin
sa=san sc=srd sd=snd se=sme sg=sag sh=hbs si=sin sk=slk=slo sl=slv sm=smo sn=sna so=som sq=sqi=alb sr=srp ss=ssw st=sot
su=sun sv=swe sw=swa=swh ta=tam te=tel tg=tgk th=tha ti=tir tk=tuk tl=tgl tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi
ty=tah ug=uig uk=ukr ur=urd uz=uzb ve=ven vi=vie vo=vol wa=wln wo=wol xh=xho yi=yid=ydd yo=yor za=zha zh=zho=chi=cmn
zu=zul
"""
"""Each language's code of two letters and its other codes: those of ISO 639-2, and of its main variety in ISO 639-3.

Stemmers and lists of stop words have one Norwegian, for both written forms.
"""

_CODE_OF = {code: codes.partition("=")[0] for codes in _CODES.split() for code in codes.split("=")}


def check_language(code: str) -> str:
    """Return the code under which stemmers and stop words know a language; of three letters, any other stays as it is.

    Raises:
        ValueError: No language has this code.

    >>> check_language("deu"), check_language("nb"), check_language("haw")
    ('de', 'no', 'haw')
    """
    if code not in _CODE_OF and not re.fullmatch("[a-z]{3}", code):
        raise ValueError(f"{code!r} is not an ISO 639 code; write en, de, zh or the like")
    return _CODE_OF.get(code, code)


Language = Annotated[str, AfterValidator(check_language)]
"""ISO 639 code."""
