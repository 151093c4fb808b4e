"""Bytes → text: encodings that are declared, that are guessed, and bytes that are damaged."""

from __future__ import annotations

import pytest
from reading import blocks, documents, only_document, refusal

from llama2vec.data.documents.readers.encodings import decoded

WAY_OUT = "name its encoding, as in --set reading.encoding=koi8-r, or save it as UTF-8"


@pytest.mark.parametrize("times", [1, 20])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "à la carte"),
        ("cp1252", "Le café est fermé à midi; où êtes-vous allée? Voilà l'été. Le coût dépassé."),
        ("cp1252", "A informação não está disponível; são três opções. Milhões de números."),
        ("cp1252", "Åsa äter ägg på ön i går."),
        ("cp1252", "Það er gott að þvo sér. Þetta er íslenska."),
        ("cp1252", "Rõhku tuleb iga päev kontrollida; külm õhk."),
        ("cp1252", "Los días 1º y 2ª, área de 5 m² – ¡qué bien! ¿Cómo está?"),
        ("cp1252", "Le président Miloševic est arrivé à la frontière; ça ira."),
        ("cp1252", "Os n.ºs 1 e 2 do artigo não são aplicáveis."),
        ("cp1252", "The naïve résumé of the café owner was read by many people."),
        ("cp1252", "He said “hello” – it costs 5 € for Müller’s pump…"),
        ("cp1252", "Price £5 ±2, 20°C, 5 µm, © 2020"),
        ("cp1252", "Šokolaad ja žanr on võõrsõnad, aga päev on pikk."),
        ("cp1252", "Føroyar eru land. Fólk tala føroyskt og lesa støddfrøði á kvøldi."),
        ("cp1257", "Žmonės čia kalba lietuviškai, jūros krantas, Baltijos šalių plotas."),
        ("cp1257", "Šeši namai ir valstybės rytų dalyje."),
        ("cp1257", "Cilvēki runā latviešu valodā un mācās vēsturi."),
        ("cp1257", "Skolās bērni mācās matemātiku."),
        ("cp1257", "Šokolaad ja žanr on võõrsõnad, aga päev on pikk."),
        ("cp1250", "Instituţii publice în România, împărţite în ţară."),
        ("cp1250", "Zażółć gęślą jaźń. Ciśnienie pompy należy sprawdzać codziennie."),
        ("cp1250", "Tlak čerpadla je třeba denně kontrolovat a šrouby dotahovat."),
        ("cp1250", "Presiunea pompei trebuie verificată zilnic şi şuruburile strânse."),
        ("cp1250", "Az egész világon nőtt a kereslet, a gépek erősek."),
        ("cp1254", "Hâlâ şehirde değil mi? Kâğıt çok geçerli."),
        ("cp1254", "Pompa basıncı her gün kontrol edilmelidir, şişe ağzı."),
        ("iso8859_2", "Zażółć gęślą jaźń. Ciśnienie pompy należy sprawdzać codziennie."),
        ("iso8859_2", "Tiskový mluvčí Tomáš Hulan dodal, že v drti bylo zlato. Měřil průtok."),
        ("iso8859_2", "To nije ono što je nekad bio. Iznenada su pooštrili kriterije, čaše i međe."),
        ("cp866", "Давление насоса проверяют каждый день."),
        ("mac_cyrillic", "Давление насоса проверяют каждый день."),
        ("cp874", "ต้องตรวจสอบความดันของปั๊มทุกวัน"),
        ("cp1251", "Давление насоса проверяют каждый день."),
        ("koi8_r", "Давление насоса проверяют каждый день."),
        ("cp1253", "Η πίεση της αντλίας ελέγχεται κάθε μέρα."),
        ("shift_jis", "ポンプの圧力を確認してください。"),
        ("euc_jp", "ポンプの圧力を確認してください。"),
        ("iso2022_jp", "ポンプの圧力を確認してください。"),
        ("gb18030", "水泵的压力应该每天检查一次。"),
        ("big5", "水泵的壓力應該每天檢查一次。"),
        ("euc_kr", "펌프의 압력을 매일 확인하십시오."),
        ("big5", "pump \\- 水 泵 的 用法\n-h  說 明\n-v  版 本\n-q  安 靜 的 模 式"),
        ("big5", "一月 三日 下午 七時"),
        ("iso8859_2", "Można pominąć. Błąd użycia."),
        ("cp1252", "ÜBERSICHT, MÜNCHEN, KÖLN UND DÜSSELDORF"),
        ("cp1252", "A paginação e as opções."),
    ],
)
def test_an_encoding_that_nothing_declares_is_guessed(encoding: str, text: str, times: int) -> None:
    whole = f"{text}\n" * times
    assert decoded(whole.encode(encoding)) == whole


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("koi8_r", "Давление насоса проверяют каждый день."),
        ("koi8_u", "Тиск насоса перевіряють щодня, і її записують."),
        ("cp932", "ポンプの圧力を確認してください。"),
        ("gb18030", "水泵的压力应该每天检查一次。"),
    ],
)
@pytest.mark.parametrize("ruler", ["~" * 79, ".if n \\{\\\n.RE\n.\\}\n.sp"])
def test_an_encoding_is_guessed_beside_rulers_and_markup(encoding: str, text: str, ruler: str) -> None:
    whole = f"{text}\n" * 6 + f"{ruler}\n" * 60 + f"{text}\n" * 3
    assert decoded(whole.encode(encoding)) == whole


@pytest.mark.parametrize("row", ["| {} | 1 |", "- {}", "{};1"])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp1252", "Sverige är ett land vid Östersjön. I skolorna läser barnen modersmål. På natten är det mörkt."),
        ("cp1252", "är på och för över från när här både"),
        ("cp1252", "été où déjà à forêt même garçon naïf"),
        ("cp1252", "België en Italië zijn één; de coördinatie is geëindigd"),
        ("cp1252", "på rød blå ære øl også får køb"),
        ("cp1252", "Übung Äpfel für schön Köln Straße grün"),
        ("cp1252", "año niño más así está también"),
        ("cp1252", "Það er gott að læra íslensku þegar veður er vont"),
        ("cp1252", "Koolides õpivad lapsed emakeelt ja ajalugu Läänemere ääres"),
        ("cp1257", "Žmonės čia kalba lietuviškai jūros rytų šalyje"),
        ("cp1257", "Cilvēki runā latviešu valodā un mācās vēsturi"),
        ("cp1250", "Ludność maleje ale gospodarka rośnie Można być"),
        ("cp1250", "Člověk píše dějepis ve střední Evropě"),
        ("cp1250", "gazdaság nő a gépek erősek a fű zöld"),
        ("cp1250", "Populaţia scade dar economia creşte învaţă matematică"),
        ("cp1254", "Nüfus azalıyor ama ekonomi büyüyor öğreniyor ağzı"),
    ],
)
def test_an_encoding_is_guessed_from_single_words_in_tables_and_lists(encoding: str, words: str, row: str) -> None:
    whole = "\n".join(row.format(word) for word in words.split())
    assert decoded(whole.encode(encoding)) == whole


@pytest.mark.parametrize("declared", [None, "iso-8859-1", "us-ascii", "windows-1252"])
def test_quotes_of_windows_are_read_where_latin_1_is_declared(declared: str | None) -> None:
    assert decoded(b"\x93hello\x94 \x96 5 \x80", declared=declared) == "“hello” – 5 €"


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [("gb2312", "gb18030", "朱镕基"), ("shift_jis", "cp932", "①髙"), ("ks_c_5601-1987", "cp949", "펲시")],
)
def test_a_declared_encoding_stands_for_the_larger_one_in_use(declared: str, encoding: str, text: str) -> None:
    assert decoded(text.encode(encoding), declared=declared) == text


def test_a_few_damaged_bytes_are_shown_and_counted() -> None:
    broken = "Größe für Müller\n".encode() * 9 + b"\xff\n" + "Köln – ü".encode()[:-1]
    document = only_document("a.log", broken)
    assert document.text == "Größe für Müller\n" * 9 + "\ufffd\nKöln – \ufffd"
    assert document.problems == ("2 damaged characters (shown as \ufffd)",)
    assert only_document("a.txt", ("ab" * 9).encode("utf-16") + b"x").text == "ab" * 9 + "\ufffd"


def test_damage_in_headings_fields_and_ids_is_shown() -> None:
    page = only_document("a.html", "<h1>Größe ü".encode() + b"\xff</h1><p>" + "Müller ß.".encode())
    assert (page.title, blocks(page)[1][1]) == ("Größe ü\ufffd", ("Größe ü\ufffd",))
    [row] = documents("a.csv", "kéy,text\néééé".encode() + b"\xff,Text of five words or more\n")
    assert row.fields["kéy"] == "éééé\ufffd"
    assert row.problems == page.problems == ("1 damaged character (shown as \ufffd)",)
    whole = only_document("a.txt", "Valid \ufffd.")
    assert whole.problems == ()


def test_binary_bytes_are_refused() -> None:
    assert refusal("a.txt", bytes(range(128, 256)) * 40 + b"\x81\x8d") in (
        f"its encoding is unknown; {WAY_OUT}",
        f"is neither UTF-8 nor cp1252 throughout; {WAY_OUT}",
    )
