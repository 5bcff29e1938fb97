"""Names that organise files and so are never a class: splits, containers, folders of tools."""

from __future__ import annotations

import functools
import re
import unicodedata

from catdog_search.data.manifest import Split
from catdog_search.text import name_key

# Folders that tools create for themselves; names that begin with a dot are hidden anyway.
_TOOLS = frozenset((
    *("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("lost+found", "$recycle.bin", "system volume information", "__pycache__", "cvs"),
    *("thumbnails", "thumbs", "_thumbs", "found.000", "windowsimagecache"),
))  # fmt: skip

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel"), "val"),
    **dict.fromkeys(("eval", "evaluation", "development"), "val"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout", "heldout"), "test"),
    # The same in other languages that are common in folder names.
    **dict.fromkeys(("entrenamiento", "entrainement", "addestramento", "treino"), "train"),
    **dict.fromkeys(("validierung", "validacion", "validacao", "validazione"), "val"),
    **dict.fromkeys(("prueba", "pruebas", "teste", "testes", "prova"), "test"),
    **dict.fromkeys(("训练", "訓練", "学習", "학습", "훈련", "тренировка", "обучение"), "train"),
    **dict.fromkeys(("验证", "驗證", "検証", "검증", "валидация"), "val"),
    **dict.fromkeys(("测试", "測試", "テスト", "테스트", "тест"), "test"),
}

_CONTAINERS = (
    *("image", "images", "img", "imgs", "photo", "photos", "pic", "pics", "picture", "pictures"),
    *("data", "dataset", "datasets", "set", "sets", "raw", "jpg", "jpeg", "png", "bmp", "webp"),
    *("tif", "tiff", "petimages", "animals", "file", "files", "folder", "folders", "dir", "dcim"),
    *("download", "downloads", "upload", "uploads", "input", "inputs", "samples", "all"),
    *("fold", "folds", "part", "parts", "batch", "batches", "chunk", "chunks", "shard", "shards"),
    *("split", "splits", "subset", "subsets", "session", "sessions", "archive"),
    *("unlabeled", "unlabelled", "annotations"),
    *("bilder", "daten", "fotos", "imagenes", "imagens", "immagini", "datos", "donnees", "dados"),
    *("集", "数据", "數據", "图片", "圖片", "图像", "画像", "写真", "データ", "사진", "이미지"),
)  # fmt: skip

# What cameras, phones and download sites put before a number.
_MAKERS = (
    *("dsc", "dscn", "dscf", "dcp", "pxl", "mvimg", "imgp", "cimg", "sdc", "hpim", "gopr", "dji"),
    *("pano", "vid", "mov", "burst", "screenshot", "screen", "shot", "scan", "scanned", "frame"),
    *("capture", "snapshot", "unnamed", "untitled", "received", "fb", "whatsapp", "at"),
    *("telegram", "instagram", "facebook", "google", "bing", "flickr", "pexels", "unsplash"),
    *("istock", "istockphoto", "shutterstock", "getty", "gettyimages", "depositphotos", "pixabay"),
    *("alamy", "dreamstime", "wikimedia", "copy", "of"),
)
_SHORT_MAKERS = frozenset(("p", "pict", "imgwa", "i", "im"))


# A version or a size beside the words: train_v2, images-224x224, test_64px.
_VERSION = re.compile(r"(?<![^\W\d_])v\d+|\d+x\d+|\d+px")
_NO_ASCII_LETTERS = re.compile("[^a-z]+")


def _letters(name: str) -> str:
    """A name's letters alone, without case, accents, numbers or versions."""
    if name.isascii():
        return _NO_ASCII_LETTERS.sub("", _VERSION.sub("", name.lower()))
    plain = _VERSION.sub("", unicodedata.normalize("NFD", name_key(name)))
    # Composed again: decomposed, Korean letters would be different ones.
    return unicodedata.normalize("NFC", "".join(char for char in plain if char.isalpha()))


def _any_of(*words: str) -> str:
    return "|".join(sorted(map(_letters, words), key=len, reverse=True))


_SPLIT_OF: dict[str, Split] = {_letters(word): split for word, split in _SPLITS.items()}
_SPLIT = re.compile(_any_of(*_SPLITS))
_ORGANISING = re.compile(f"(?:{_any_of(*_SPLITS, *_CONTAINERS)})+")
_MADE = re.compile(f"(?:{_any_of(*_SPLITS, *_CONTAINERS, *_MAKERS)})+")
# Folders numbered by cameras (DCF), and days, months and years.
_CAMERA_FOLDER = re.compile(r"\d{3}(?=[0-9_]*[A-Z])[A-Z0-9_]{5}")
_DATE = re.compile(r"(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?[0-3]\d)?)?")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden."""
    return name.startswith(".")


def is_tools_folder(name: str) -> bool:
    """Whether a folder is one that tools create for themselves beside photos."""
    return name_key(name) in _TOOLS


@functools.lru_cache(maxsize=4096)
def organises(name: str) -> bool:
    """Whether a folder's name says how files are organised and nothing about what they show.

    `train`, `Test_1`, `validation set`, `JPEGImages`, `100CANON`, `2024-05-01`, `@eaDir`.
    """
    return (
        is_hidden(name)
        or is_tools_folder(name)
        or _ORGANISING.fullmatch(_letters(name)) is not None
        or _CAMERA_FOLDER.fullmatch(name) is not None
        or _DATE.fullmatch(name) is not None
    )


@functools.lru_cache(maxsize=4096)
def names_no_class(prefix: str) -> bool:
    """Whether the text before a file's number says nothing about its content: `IMG`, `train`."""
    letters = _letters(prefix)
    return not letters or letters in _SHORT_MAKERS or _MADE.fullmatch(letters) is not None


@functools.lru_cache(maxsize=4096)
def split_named(name: str) -> Split | None:
    """The split that a folder's name means; None where it means none or several."""
    letters = _letters(name)
    if _ORGANISING.fullmatch(letters) is None:
        return None
    found = {_SPLIT_OF[word] for word in _SPLIT.findall(letters)}
    return found.pop() if len(found) == 1 else None
